"""
A worker whose clock is off.

    python -m tests.chaos.shifted_worker SECONDS

Python's `time.time` and the clock that signs hand-offs are so many seconds ahead, or behind: that is
all of the wall clock that a worker reads.
"""

import sys
import time
from datetime import timedelta

from reactor.__main__ import main
from reactor.channels import http


def shift(seconds):
    """Put the clocks of this process forward, or back."""
    unix, wall = time.time, http._wall_clock
    time.time = lambda: unix() + seconds
    http._wall_clock = lambda: wall() + timedelta(seconds=seconds)


if __name__ == "__main__":
    shift(float(sys.argv.pop()))
    sys.argv.append("run")
    main()
