"""Workers, as operators run them: several, each started again when it has died."""

import sys

from tests.chaos.processes import ROOT, Process, until

WORKERS = 4
#: Never killed, only frozen: its memory tells about the whole run.
SURVIVOR = 0
#: Seconds by which the clocks of workers are off.
CLOCKS = {1: 30, 2: -30}
BIRTH_SECONDS = 180
SETTINGS = {
    "LEASE_SECONDS": "6",
    "CHANNEL_TIMEOUT_SECONDS": "2",
    "POLLING_INTERVAL_SECONDS": "5",
    "SHUTDOWN_GRACE_SECONDS": "10",
    # A long run has more campaign time than conversations are kept for; nothing may leave before it
    # is judged.
    "RETENTION_DAYS": "0",
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "json",
    "CHANNEL_EMAIL_ALLOW_PRIVATE": "1",
    # Signed by the worker's own clock.
    "CHANNEL_EMAIL_SECRET": "whsec_Y2hhb3NjaGFvc2NoYW9zY2hhb3NjaGFvc2NoYW9z",
    "PYTHONPATH": str(ROOT),
}


class Worker(Process):
    """One worker."""

    def __init__(self, number, directory, environ, *, clocks):
        self.name = f"worker {number}"
        self.heartbeat = directory / f"worker-{number}.heartbeat"
        off = CLOCKS.get(number, 0) if clocks else 0
        entry = ["-m", "tests.chaos.shifted_worker", off] if off else ["-m", "reactor", "run"]
        environ = SETTINGS | environ | {"HEARTBEAT_FILE": str(self.heartbeat)}
        super().__init__(
            [sys.executable, *entry], directory / f"worker-{number}.log", environ=environ
        )
        #: Killed on purpose, and not to be started yet.
        self.down = False

    def start(self):
        """Start it: it has a heartbeat as soon as it works."""
        self.down = False
        self.heartbeat.unlink(missing_ok=True)
        super().start()

    def works(self):
        """Whether it has come to work, in its present life."""
        return self.heartbeat.exists()

    def kill(self):
        """Kill it, and leave it dead."""
        self.down = True
        super().kill()


class Fleet:
    """All workers."""

    def __init__(self, directory, environ, *, clocks=True):
        self.workers = [
            Worker(number, directory, environ, clocks=clocks) for number in range(WORKERS)
        ]
        #: Workers that have died without being killed.
        self.deaths = []

    def __enter__(self):
        for worker in self.workers:
            worker.start()
        until(self.all_work, BIRTH_SECONDS, "all workers work", self.tend)
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            if worker.is_alive():
                worker.kill()

    def all_work(self):
        """Whether every worker has come to work."""
        return all(worker.works() for worker in self.workers)

    def tend(self):
        """Start anew who has ended, as a supervisor does; who has worked must not end by itself."""
        for worker in self.workers:
            if worker.is_alive() or worker.down:
                continue
            if worker.works():
                self.deaths.append(f"{worker.name} ended with {worker.popen.returncode}")
            worker.start()

    def mortals(self):
        """Give those that may be killed."""
        return [worker for worker in self.workers if worker is not self.workers[SURVIVOR]]

    def stop(self):
        """Stop all in order, and give their exit codes."""
        return [worker.stop() for worker in self.workers]
