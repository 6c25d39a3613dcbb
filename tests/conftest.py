"""What tests share: one MongoDB for the session, a database of its own for each test."""

import os
import secrets
import time
from contextlib import contextmanager

import pytest
from hypothesis import Phase, settings
from pymongo import MongoClient

from reactor.embedded import embedded_server_sync, find_mongod

settings.register_profile("ci", derandomize=True, max_examples=40, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None)
# Whether a mutant is noticed is all that is asked: to find its smallest case takes a minute.
settings.register_profile(
    "mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

IMAGE = "mongo:8.0"
USED = pytest.StashKey[str]()
#: How many schedules were simulated, and how fast.
SCHEDULES = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def anyio_backend():
    """PyMongo's asynchronous client runs on asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def mongodb_uri(pytestconfig):
    """Where the session's MongoDB is, a replica set; there is never more than one."""
    with _mongodb() as (what, uri):
        pytestconfig.stash[USED] = what
        yield uri


@pytest.fixture(scope="session")
def mongodb_client(mongodb_uri):
    """A synchronous client, for what a test prepares, looks at and throws away."""
    with MongoClient(mongodb_uri, w="majority", tz_aware=True) as client:
        yield client


@pytest.fixture
def database_name(mongodb_client):
    """A database that is this test's alone."""
    name = f"test_{secrets.token_hex(6)}"
    yield name
    mongodb_client.drop_database(name)


def pytest_collection_modifyitems(items):
    """Build the image last: it takes longest to say what the others say sooner."""
    items.sort(key=lambda item: item.path.name == "test_image.py")


def pytest_terminal_summary(terminalreporter, config):
    """Say which MongoDB the tests ran on, and how much was simulated."""
    if USED in config.stash:
        terminalreporter.write_line(f"MongoDB: {config.stash[USED]}")
    if SCHEDULES in config.stash:
        terminalreporter.write_line(f"Simulation: {config.stash[SCHEDULES]}")


@contextmanager
def _mongodb():
    if uri := os.environ.get("MONGODB_URI"):
        yield "what MONGODB_URI names", uri
    elif os.environ.get("REACTOR_TEST_DOCKER") == "1" and _docker_answers():
        with _container() as uri:
            yield f"a container of {IMAGE}", uri
    else:
        with embedded_server_sync() as server:
            yield f"{find_mongod(os.environ)}, started for these tests", server.uri


def _docker_answers():
    import docker  # noqa: PLC0415 - slow, and seldom asked for

    try:
        client = docker.from_env()
    except docker.errors.DockerException:
        return False
    client.close()
    return True


@contextmanager
def _container():
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - see above

    command = "mongod --replSet rs0"  # the image binds to all interfaces by itself
    with DockerContainer(IMAGE).with_command(command).with_exposed_ports(27017) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(27017)
        uri = f"mongodb://{host}:{port}/?directConnection=true"
        with MongoClient(uri) as client:
            members = [{"_id": 0, "host": "localhost:27017"}]
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
            _wait_for_primary(client)
        yield uri


def _wait_for_primary(client):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if client.admin.command("hello")["isWritablePrimary"]:
            return
        time.sleep(0.05)
    pytest.fail(f"{IMAGE} did not become a primary")
