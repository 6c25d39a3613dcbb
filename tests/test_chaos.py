"""
A short mix of every fault, by a fixed seed: `make chaos` does longer ones, by any seed.

Judged by outcomes alone: a slow machine takes longer, and nothing else.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEED, SECONDS, CONVERSATIONS = 20270115, 60, 400
#: The whole takes three minutes on two cores.
PATIENCE = 1200


@pytest.mark.timeout(PATIENCE + 60)
def test_nothing_is_lost_or_doubled_whatever_breaks(tmp_path):
    """Workers, members, network and receiver break at the same time; at the end all of it holds."""
    command = [
        *(sys.executable, "-m", "tests.chaos", "--directory", tmp_path),
        *("--seed", SEED, "--seconds", SECONDS, "--conversations", CONVERSATIONS),
    ]
    # Who plays is killed too, and what is measured here is not coverage.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, said
    assert "All holds." in said
