"""What it was measured on: no figure means anything without that."""

import os
import platform
import subprocess
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
        "load_before": round(os.getloadavg()[0], 2),
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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
