"""What it was measured on: no figure means anything without that."""

import os
import platform
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pymongo import AsyncMongoClient


async def machine(uri):
    """Describe the machine, its software and the code."""
    async with AsyncMongoClient(uri) as client:
        mongod = (await client.server_info())["version"]
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gb": round(os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "mongod": mongod,
        "commit": _commit(),
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def others(shares, name):
    """Note under a name how much of the machine, in per cent, others had while the block ran."""
    began, busy, own = time.monotonic(), _busy_seconds(), _own_seconds()
    yield
    used = _busy_seconds() - busy - (_own_seconds() - own)
    all_of_it = (time.monotonic() - began) * (os.cpu_count() or 1)
    shares[name] = round(100 * max(0.0, used) / all_of_it, 1)


def _busy_seconds():
    """Give the processor time that all processes have used since the start of the machine."""
    file = Path("/proc/stat")
    if not file.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, file.read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_seconds():
    """Give that of this process and of those that it had started, which are over by now."""
    return sum(os.times()[:4])


def _cpu():
    """Give the processor's name as the kernel tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit():
    """Give the commit, with a plus where the code was changed since; None outside of git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        # What a run itself writes is no change of the code.
        changed = _git("status", "--porcelain", "--untracked-files=no", ":!bench/results.*")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _git(*arguments):
    command = ["git", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
