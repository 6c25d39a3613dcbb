"""The report: two tables on the terminal, and the same for programs."""

import json

from attrs import asdict
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench.figures import PERCENTILES, at, judged, summary
from bench.sizes import GIVEN


def as_document(figures, targets, machine, *, quick):
    """Give what bench/results.json holds."""
    return {
        "machine": machine,
        "quick": quick,
        "numbers": GIVEN,
        "figures": {name: summary(figure) for name, figure in figures.items()},
        "targets": [
            {
                "what": each.target.what,
                **{key: value for key, value in asdict(each.target).items() if value is not None},
                "unit": each.unit,
                "measured": round(each.value, 3),
                "interval": [round(each.low, 3), round(each.high, 3)],
                "met": each.met,
            }
            for each in judged(targets, figures)
        ],
    }


def tables(figures, targets, machine):
    """Give the tables that are printed."""
    return Group(_figures(figures, machine), _targets(judged(targets, figures)))


def _figures(figures, machine):
    title = ", ".join(
        f"{machine[key]}{unit}"
        for key, unit in (("cpu", ""), ("cores", " cores"), ("mongod", ""), ("commit", ""))
        if machine.get(key)
    )
    table = Table("figure", "unit", title=title)
    for heading in ("n", "median", "p10 to p90", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, figure in figures.items():
        if not figure.samples:
            table.add_row(name, figure.unit, "0")
            continue
        p10, p50, p90, p99 = (at(figure.samples, each) for each in PERCENTILES)
        spread = f"{shown(p10)} to {shown(p90)}" if len(figure.samples) > 1 else ""
        count, most = len(figure.samples), max(figure.samples)
        table.add_row(name, figure.unit, str(count), shown(p50), spread, shown(p99), shown(most))
    return table


def _targets(verdicts):
    table = Table("target", title="Targets; the interval holds 9 of 10 draws from the samples")
    for heading in ("measured", "interval", "wanted", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in verdicts:
        met = Text("yes", "green") if each.met else Text("no", "bold red")
        interval = "" if each.low == each.high else f"{shown(each.low)} to {shown(each.high)}"
        unit = f" {each.unit}" if each.unit else ""
        table.add_row(each.target.what, shown(each.value) + unit, interval, wanted(each), met)
    return table


def wanted(verdict):
    """Say what a target asks for."""
    target = verdict.target
    if target.most is not None:
        return f"≤ {shown(target.most)}"
    return f"≥ {shown(target.least)}"


def shown(value):
    """Give three digits that matter, and all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write(document, file):
    """Write what programs read."""
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
