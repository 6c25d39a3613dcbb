"""The image: linted always, built and run where a Docker engine answers."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
IMAGE = "reactor:test"
#: As a careful deployment runs it.
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


def docker(*arguments, expected=0):
    """Run a command of Docker that must end with this exit code; give all its output."""
    result = attempt(*arguments)
    assert result.returncode == expected, result.stdout
    return result.stdout


def attempt(*arguments):
    """Run a command of Docker, however it ends."""
    return subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )


def engine_answers():
    """Say whether there is a Docker engine."""
    return shutil.which("docker") is not None and attempt("info").returncode == 0


def test_the_dockerfile_is_clean():
    """Hadolint has nothing to say about it."""
    subprocess.run([Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], check=True)


def test_only_what_is_needed_goes_in():
    """Everything is ignored but what the Dockerfile copies."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        line.split()[1]
        for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
    ]
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    assert all((ROOT / name).exists() for name in copied)


def test_compose_stops_gently():
    """The worker gets longer to stop than it takes, from a read-only, unprivileged container."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    worker, mongo = compose["services"]["reactor"], compose["services"]["mongo"]
    assert int(worker["stop_grace_period"].removesuffix("s")) > 20
    assert worker["read_only"]
    assert worker["cap_drop"] == ["ALL"]
    assert worker["depends_on"]["mongo"]["condition"] == "service_healthy"
    assert "--replSet" in mongo["command"]
    assert all(port.startswith("127.0.0.1:") for port in mongo["ports"])


if engine_answers():

    @pytest.fixture(scope="module")
    def image():
        """Build the image; it goes with the tests."""
        # The network of the build is the machine's, however that reaches the package index.
        docker("build", "--network=host", "--tag", IMAGE, ".")
        yield IMAGE
        docker("image", "rm", "--force", IMAGE)

    @pytest.fixture
    def settings(mongodb_uri, database_name):
        """Give the options for a container that works on this test's database."""
        given = {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name, "CHANNEL_EMAIL": "log:"}
        return ("--network=host", *(f"--env={name}={value}" for name, value in given.items()))

    @pytest.fixture
    def worker(image, settings):
        """Start a worker as a careful deployment does; give its container."""
        container = docker("run", "--detach", *HARDENED, *settings, image).strip()
        yield container
        docker("rm", "--force", container)

    def test_the_image_knows_its_version(image):
        """Anything but run and health is a command."""
        assert docker("run", "--rm", *HARDENED, image, "version").startswith("reactor ")

    def test_the_image_is_not_root(image):
        """It runs as nobody in particular, and cannot change itself."""
        assert docker("run", "--rm", "--entrypoint=id", image, "-u").strip() == "10001"
        docker("run", "--rm", "--entrypoint=touch", image, "/app/x", expected=1)

    def test_the_image_asks_for_a_database(image):
        """Without settings it ends with 2 and says what is missing."""
        assert "MONGODB_URI is not set" in docker("run", "--rm", image, expected=2)

    def test_the_image_prepares_and_checks_a_database(image, settings):
        """What init-db makes, check finds."""
        docker("run", "--rm", *HARDENED, *settings, image, "init-db")
        assert "failed" not in docker("run", "--rm", *HARDENED, *settings, image, "check")

    def test_the_worker_lives_and_stops(worker):
        """It gives signs of life, and on SIGTERM ends with 0 within its grace."""
        deadline = time.monotonic() + 60
        while attempt("exec", worker, "/app/worker.sh", "health").returncode:
            running = docker("inspect", "--format={{.State.Running}}", worker).strip()
            assert (running, time.monotonic() < deadline) == ("true", True), docker("logs", worker)
            time.sleep(0.2)
        started = time.monotonic()
        docker("stop", "--time=30", worker)
        assert time.monotonic() - started < 25
        assert docker("inspect", "--format={{.State.ExitCode}}", worker).strip() == "0"
        assert "Traceback" not in docker("logs", worker)
