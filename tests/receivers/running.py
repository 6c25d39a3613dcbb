"""Receivers for tests: started, told what to do, looked at, stopped."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

HTTP_RECEIVER = Path(__file__).with_name("http_receiver.py")


class HttpReceiver:
    """The process tests/receivers/http_receiver.py, where modes are explained, and its log."""

    def __init__(self, log, port, *arguments, scheme="http"):
        self.log = log
        self.port = port
        self.arguments = arguments
        self.scheme = scheme
        self.process = None

    @property
    def url(self):
        """Where messages are sent to."""
        return f"{self.scheme}://127.0.0.1:{self.port}/messages"

    def start(self, mode):
        """Start the process, on the same port as before if there was one before."""
        command = [sys.executable, HTTP_RECEIVER, "--port", self.port, "--log", self.log]
        self.process = subprocess.Popen(
            [*map(str, command), "--mode", as_text(mode), *self.arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline())
        self.control_port = int(self.process.stdout.readline())
        self.process.stdout.close()

    def stop(self):
        """Kill the process; the log stays."""
        self.process.kill()
        self.process.wait()

    def restart(self, mode="ok"):
        """Start it anew, on the same port and with the same log."""
        self.stop()
        self.start(mode)

    def set_mode(self, mode):
        """Change what it does: a mode, or rules; from the next request on."""
        url = f"http://127.0.0.1:{self.control_port}/_mode"
        request = urllib.request.Request(url, as_text(mode).encode(), method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from None

    def requests(self):
        """Give all that it received so far, oldest first."""
        return [json.loads(line) for line in self.log.read_bytes().splitlines()]


def as_text(mode):
    """Give a mode as it is, and rules as JSON."""
    return mode if isinstance(mode, str) else json.dumps(mode)


@contextmanager
def http_receiver(tmp_path, mode="ok", port=0, *, arguments=(), scheme="http"):
    """Run a receiver, with its log in tmp_path."""
    log = tmp_path / "http-receiver.jsonl"
    receiver = HttpReceiver(log, port, *arguments, scheme=scheme)
    receiver.start(mode)
    try:
        yield receiver
    finally:
        receiver.stop()
