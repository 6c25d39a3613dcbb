"""An SMTP receiver for tests: started, told what to do, looked at, stopped."""

import base64
import json
import subprocess
import sys
import urllib.parse
from contextlib import contextmanager
from pathlib import Path

SMTP_RECEIVER = Path(__file__).with_name("smtp_receiver.py")


class SmtpReceiver:
    """The process tests/receivers/smtp_receiver.py, where modes are explained, and its log."""

    def __init__(self, log, *arguments, user="", scheme="smtp", host="127.0.0.1"):
        self.log = log
        command = [sys.executable, SMTP_RECEIVER, "--log", log, *arguments]
        with log.with_suffix(".stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [str(each) for each in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.port = int(self.process.stdout.readline())
        self.url = f"{scheme}://{user and user + '@'}{host}:{self.port}"

    def tell(self, line):
        """Tell it something, and give the answer: from then on it is so."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def set_mode(self, mode):
        """Change what it does; `refuse` stops listening and closes all connections."""
        if (answer := self.tell(mode)) != mode:
            raise ValueError(answer)

    def drop(self):
        """Close all connections, as servers do with idle ones."""
        self.tell("drop")

    def open_connections(self):
        """Count the connections that are open now."""
        return int(self.tell("open"))

    def messages(self):
        """Give what it has accepted, in order; `raw` is bytes."""
        if not self.log.exists():
            return []
        lines = [json.loads(line) for line in self.log.read_bytes().splitlines()]
        return [line | {"raw": base64.b64decode(line["raw"])} for line in lines]

    def stop(self):
        """Kill the process; the log stays."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def smtp_receiver(
    tmp_path, mode="ok", *, auth=None, tls=None, starttls=None, utf8=True, host="127.0.0.1"
):
    """
    Run a receiver; its log is in `tmp_path`. `auth` is `user:password`, and part of its `url`.

    `tls` and `starttls` are the paths of a certificate and of its key.
    """
    arguments = ["--mode", mode]
    arguments += ["--auth", auth] if auth else []
    arguments += ["--tls", *tls] if tls else []
    arguments += ["--starttls", *starttls] if starttls else []
    arguments += [] if utf8 else ["--no-utf8"]
    receiver = SmtpReceiver(
        tmp_path / "smtp.jsonl",
        *arguments,
        user=urllib.parse.quote(auth or "", safe=":"),
        scheme="smtps" if tls else "smtp",
        host=host,
    )
    try:
        yield receiver
    finally:
        receiver.stop()
