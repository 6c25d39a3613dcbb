"""What a step costs in commands and instructions is what was last agreed to: bench/counts.json."""

import json
import platform

import pytest

from bench.counts import FILE, count

#: Shares of what is agreed to. Commands hardly vary; instructions do, with the libraries' versions.
COMMANDS, INSTRUCTIONS = 0.05, 0.10
RENEW = "; if that is meant, renew the file: python -m bench.counts --write"


async def test_a_step_costs_what_was_agreed_to(mongodb_uri, mongodb_client):
    """Dearer is a regression; cheaper is to be held from then on."""
    agreed = json.loads(FILE.read_text(encoding="utf-8"))
    try:
        found, _ = await count(mongodb_uri)
    finally:
        for name in ("bench_due", "bench_counts"):
            mongodb_client.drop_database(name)
    per_1000 = pytest.approx(agreed["commands_per_1000_steps"], rel=COMMANDS)
    assert found["commands_per_1000_steps"] == per_1000, f"{found['commands']}{RENEW}"
    if platform.python_version().rpartition(".")[0] == agreed["python"]:
        per_step = pytest.approx(agreed["instructions_per_step"], rel=INSTRUCTIONS)
        assert found["instructions_per_step"] == per_step, f"instructions per step{RENEW}"
