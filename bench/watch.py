"""Watching files and processes, at no cost to what is measured."""

import ctypes
import os
import statistics
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

_IN_MODIFY = 0x2
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGESIZE")
MEGABYTE = 1_000_000
#: Between two looks at a process's memory.
LOOK_SECONDS = 0.5
#: A worker has started by then, and is no interpreter that imports any more.
START_SECONDS = 2.0


def bell_of(file):
    """Give a descriptor that is readable when the file may have grown; None: there is no such thing."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(file), _IN_MODIFY) < 0:
        raise OSError(ctypes.get_errno(), "inotify", str(file))
    return descriptor


def resident(pid):
    """Give the memory that a process has in use (RSS), in megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / MEGABYTE


def cpu_seconds(pid):
    """Give the processor time that a process has used, its own and the kernel's for it."""
    # The name, which may have blanks in it, stands in parentheses; utime and stime are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@asynccontextmanager
async def memory(pid):
    """Look at a process's memory twice a second as long as the block runs; gives the list."""
    seen = []

    async def look():
        while True:
            seen.append(resident(pid))
            await anyio.sleep(LOOK_SECONDS)

    async with anyio.create_task_group() as tasks:
        await anyio.sleep(START_SECONDS)
        tasks.start_soon(look)
        yield seen
        tasks.cancel_scope.cancel()
    seen.append(resident(pid))


def growth(seen):
    """Say how much memory grew once the process was warm: its last quarter over its second one."""
    quarter = max(1, len(seen) // 4)
    return statistics.median(seen[-quarter:]) / statistics.median(
        seen[quarter : 2 * quarter] or seen
    )
