"""Processes that faults are done to: started, stopped, frozen, killed, and gone with whoever started them."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from reactor.embedded import LAUNCHER

ROOT = Path(__file__).parents[2]
#: Below the ports that the kernel hands out: nobody takes one while its owner is down.
PORTS = range(20_000, 32_000)
POLL_SECONDS = 0.05


class Process:
    """A program that can be started again and again, with a log that goes on."""

    def __init__(self, command, log, environ=None):
        self.command = [str(word) for word in command]
        self.log = log
        # Who is killed cannot say what was covered.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "COVERAGE_"))}
        self.environ = kept | (environ or {})
        self.popen = None
        self.frozen = False

    @property
    def pid(self):
        """The process id of its present life."""
        return self.popen.pid

    def start(self):
        """Start it, as a child that the kernel kills when this process dies."""
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *self.command],
                env=self.environ,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_alive(self):
        """Whether it runs, if only frozen."""
        return self.popen is not None and self.popen.poll() is None

    def kill(self):
        """Kill it, as a power cut would."""
        self.popen.kill()
        self.popen.wait()
        self.frozen = False

    def freeze(self):
        """Stop it where it stands."""
        self.popen.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        """Let it go on."""
        self.popen.send_signal(signal.SIGCONT)
        self.frozen = False

    def stop(self, seconds=30):
        """Ask it to end, and give its exit code; killed if it does not."""
        if not self.is_alive():
            return self.popen.returncode if self.popen else None
        self.thaw()
        self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.returncode

    def memory(self):
        """Give its resident memory, in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def free_port():
    """Give a port that nobody listens on."""
    # Not by the seed: two runs with one seed may run at the same time.
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError("no free port")


def until(condition, seconds, what, meanwhile=lambda: None):
    """Wait until a condition holds, and give what it gave; TimeoutError names what did not come."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        meanwhile()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)
    return found
