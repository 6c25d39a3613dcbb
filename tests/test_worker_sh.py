import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKER_SH = ROOT / "worker.sh"
NOWHERE = "mongodb://127.0.0.1:1/?directConnection=true"
#: All that `worker.sh health` may need.
TOOLS = ("sh", "dirname", "stat", "date")

#: Stands in for `reactor` where the shell is looked at: says what it is told, and its signal.
PARROT = """#!/bin/sh
trap 'echo "got TERM"; exit 7' TERM
echo "$$ $*"
case $1 in
    check) [ ! -e hang ] || { : > checking; while :; do sleep 0.01; done; } ;;
    run) : > running; while :; do sleep 0.01; done ;;
esac
"""


@pytest.fixture
def place(tmp_path):
    """Make a directory with worker.sh and nothing else."""
    shutil.copy(WORKER_SH, tmp_path)
    return tmp_path


@pytest.fixture
def program(place):
    """Put the real `reactor` on a PATH of its own; give that PATH."""
    script = f'#!/bin/sh\nexec "{sys.executable}" -m reactor "$@"\n'
    return f"{install(place / 'bin', script)}:{os.environ['PATH']}"


def install(directory, script):
    """Make an executable `reactor` of this script."""
    directory.mkdir(parents=True)
    path = directory / "reactor"
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)
    return directory


@pytest.fixture
def start(place):
    """Start a copy of worker.sh, from another directory than its own; none outlives its test."""
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    started = []

    def start(*arguments, **environment):
        modules = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        given = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
        given |= {"PATH": os.environ["PATH"], "PYTHONPATH": modules}
        process = subprocess.Popen(
            [place / "worker.sh", *arguments],
            cwd=elsewhere,
            env=given | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start):
    """Run worker.sh to its end: exit code, stdout, stderr."""

    def run(*arguments, **environment):
        process = start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    return run


def wait_for(path, process):
    """Wait until a process has made a file."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_script_is_clean():
    """Shellcheck has nothing to say about it."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    subprocess.run([shellcheck, WORKER_SH], check=True)


# -- health ----------------------------------------------------------------------------------------


@pytest.fixture
def bare_path(tmp_path):
    """Make a PATH on which there is no Python."""
    directory = tmp_path / "tools"
    directory.mkdir()
    for tool in TOOLS:
        (directory / tool).symlink_to(shutil.which(tool))
    return str(directory)


@pytest.mark.parametrize(("age", "code"), [(0, 0), (25, 0), (60, 1), (-3600, 1)])
def test_health_is_the_heartbeats_age(run, place, bare_path, age, code):
    """A heartbeat of the last 30 seconds is health, in a blink and without Python."""
    beat = place / "beat"
    beat.touch()
    os.utime(beat, (time.time() - age,) * 2)
    started = time.monotonic()
    result = run("health", PATH=bare_path, HEARTBEAT_FILE=str(beat))
    assert time.monotonic() - started < 1
    assert result[0] == code
    assert not result[1]
    assert bool(result[2]) == bool(code)


def test_health_without_a_heartbeat(run, place, bare_path):
    """A worker that never gave a sign of life is not healthy; the file is named."""
    code, _, err = run("health", PATH=bare_path, TMPDIR=str(place))
    assert code == 1
    assert err == f"no heartbeat: {place}/reactor-heartbeat is not there\n"


# -- finding the program ---------------------------------------------------------------------------


def test_other_arguments_are_commands(run, program):
    """Whatever is not its own is a command of reactor, found on the PATH."""
    code, out, _ = run("version", PATH=program)
    assert code == 0
    assert out.startswith("reactor ")


def test_its_own_environment_comes_first(run, place, bare_path):
    """The program in .venv beside the script is taken, wherever one stands."""
    install(place / ".venv" / "bin", PARROT)
    code, out, _ = run("config", "--json", PATH=bare_path)
    assert code == 0
    assert out.split(" ", 1)[1] == "config --json\n"


def test_without_the_program(run, bare_path):
    """Where there is no reactor, that is said."""
    code, _, err = run("run", PATH=bare_path)
    assert code == 1
    assert "no reactor on the PATH" in err


# -- run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("run",), ("run", "--once")])
def test_run_becomes_the_worker(start, place, arguments):
    """After the check the worker replaces the shell: its signals, its exit code."""
    install(place / ".venv" / "bin", PARROT)
    process = start(*arguments)
    wait_for(place / "elsewhere" / "running", process)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 7
    assert out.splitlines() == [f"{process.pid} {' '.join(arguments) or 'run'}", "got TERM"]
    assert err.endswith(" check --startup\n")


def test_a_stop_during_the_check(start, place):
    """SIGTERM ends a worker that still waits for its database: at once, as a clean stop."""
    install(place / ".venv" / "bin", PARROT)
    (place / "elsewhere" / "hang").touch()
    process = start()
    wait_for(place / "elsewhere" / "checking", process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert not out
    assert err.endswith("got TERM\n")


def test_bad_settings_end_the_start(run, program):
    """Settings that are wrong are not waited for: exit code 2, all of them on stderr."""
    code, out, err = run(PATH=program, LEASE_SECONDS="soon", WORKER_THREADS="0")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2


def test_no_database_ends_the_start(run, program):
    """A database that does not come in time ends the start with 1; it was said what is awaited."""
    wait = {"MONGODB_URI": NOWHERE, "STARTUP_TIMEOUT_SECONDS": "0.1"}
    code, out, err = run(PATH=program, **wait)
    assert (code, out) == (1, "")
    assert "Waiting for the database" in err
    assert "Not ready after 0.1 s" in err


def test_a_real_worker_starts_and_stops(run, start, place, program, mongodb_uri, database_name):
    """The real worker comes up, shows life, and ends with 0 on SIGTERM."""
    given = {"MONGODB_URI": mongodb_uri, "MONGODB_DB": database_name, "CHANNEL_EMAIL": "log:"}
    given["HEARTBEAT_FILE"] = str(place / "beat")
    process = start(PATH=program, **given)
    wait_for(place / "beat", process)
    assert run("health", HEARTBEAT_FILE=str(place / "beat"))[0] == 0
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in err
