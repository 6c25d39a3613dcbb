"""`python -m bench`: measure, print a table, write bench/results.json."""

import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from bench import counts, fleet, neighbour, rate, reaction, throughput, timers
from reactor.embedded import EmbeddedServerError, embedded_server

PARTS = {
    "reaction": reaction.measure,
    "timers": timers.measure,
    "neighbour": neighbour.measure,
    "rate": rate.measure,
    "fleet": fleet.measure,
    "throughput": throughput.measure,
    "counts": counts.measure,
}


async def run(names):
    """Run the parts named, each in a database of its own on one server."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="reactor-bench-") as directory:
        async with embedded_server() as server:
            for name in names:
                print(f"measuring {name} …", file=sys.stderr)
                results |= await PARTS[name](server.uri, Path(directory))
    return results


def summary(samples):
    """Give the figures of a list of samples, in its unit."""
    if not samples:
        return {"n": 0}
    ordered = sorted(samples)
    return {
        "n": len(ordered),
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }


def main():
    """Print and write the results of all parts, or of those named as arguments."""
    names = sys.argv[1:] or list(PARTS)
    unknown = set(names) - set(PARTS)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    try:
        results = anyio.run(partial(run, names))
    except EmbeddedServerError as error:
        sys.exit(str(error))
    figures = {name: summary(samples) for name, samples in results.items()}
    table = Table(
        "milliseconds, or as named", "n", "p50", "p99", "max", title="reactor, on this machine"
    )
    for name, figure in figures.items():
        row = [f"{figure[key]:.1f}" if key in figure else "" for key in ("p50", "p99", "max")]
        table.add_row(name, str(figure["n"]), *row)
    Console().print(table)
    file = Path("bench/results.json")
    file.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
