"""`python -m bench [PART …]`: measure, print a report, write results.json and results.svg."""

import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console

from bench import (
    counts,
    fairness,
    fleet,
    idle,
    neighbour,
    opening,
    rate,
    reaction,
    report,
    scale,
    throughput,
    timers,
)
from bench.figures import as_figure
from bench.machine import machine
from bench.picture import picture
from bench.progress import say
from bench.sizes import QUICK
from bench.targets import TARGETS
from reactor.embedded import EmbeddedServerError, embedded_server

PARTS = {
    "reaction": reaction.measure,
    "timers": timers.measure,
    "scale": scale.measure,
    "opening": opening.measure,
    "fairness": fairness.measure,
    "idle": idle.measure,
    "neighbour": neighbour.measure,
    "rate": rate.measure,
    "fleet": fleet.measure,
    "throughput": throughput.measure,
    "counts": counts.measure,
}
#: What takes longest to try out, and shows least that way.
NOT_QUICK = {"neighbour", "rate", "fleet", "throughput"}
HERE = Path(__file__).parent


async def run(names, file):
    """Run the parts named on a server each; what is measured is written after each of them."""
    figures, about = {}, {}
    for number, name in enumerate(names, 1):
        say(f"{name} ({number} of {len(names)})")
        # A server of its own, in the state in which that of a part that is run alone would be.
        with tempfile.TemporaryDirectory(prefix="reactor-bench-") as directory:
            async with embedded_server() as server:
                about = about or await machine(server.uri)
                measured = await PARTS[name](server.uri, Path(directory))
        figures |= {figure: as_figure(each) for figure, each in measured.items()}
        report.write(report.as_document(figures, TARGETS, about, quick=QUICK), file)
    file.with_suffix(".svg").write_text(picture(figures, TARGETS, about))
    return figures, about


def main():
    """Report on all parts, or on those named as arguments."""
    names = sys.argv[1:] or [name for name in PARTS if not (QUICK and name in NOT_QUICK)]
    unknown = set(names) - set(PARTS)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    # What is published is a whole run.
    file = HERE / ("results.json" if names == list(PARTS) and not QUICK else "trial.json")
    try:
        figures, about = anyio.run(partial(run, names, file))
    except EmbeddedServerError as error:
        sys.exit(str(error))
    console = Console()
    # Into a file or a pipe goes the whole of each line.
    console = console if console.is_terminal else Console(width=160)
    console.print(report.tables(figures, TARGETS, about))
    console.print(f"written: {file}, {file.with_suffix('.svg')}", soft_wrap=True)


if __name__ == "__main__":
    main()
