"""Progress, on stderr: the report alone goes to stdout."""

import sys
import time

_BEGAN = time.monotonic()


def say(text):
    """Say what is being done, and since when."""
    minutes, seconds = divmod(int(time.monotonic() - _BEGAN), 60)
    print(f"{minutes:3}:{seconds:02}  {text}", file=sys.stderr, flush=True)
