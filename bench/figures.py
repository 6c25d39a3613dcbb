"""Figures: samples with their unit, what is said of them, and the targets that they are held to."""

import random
import statistics
from collections.abc import Mapping, Sequence

from attrs import frozen

#: Of a sorted list: which share of it lies below.
PERCENTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}
#: Drawn again so often, to see how far a ratio would come out differently.
DRAWS = 400
#: Points of a figure over time that are kept.
POINTS = 60


@frozen(kw_only=True)
class Figure:
    """What was measured under one name."""

    unit: str
    samples: Sequence[float]
    #: Its samples are in the order of time, evenly spaced, and it matters how they went.
    over_time: bool = False


@frozen(kw_only=True)
class Target:
    """What a figure ought to be; with `beside`, as a multiple of another of the same run."""

    figure: str
    at: str
    beside: str | None = None
    #: It is met by so much or less; or, with `least`, by so much or more.
    most: float | None = None
    least: float | None = None

    @property
    def what(self) -> str:
        return f"{self.figure}: {self.at}" + (
            f" / {self.at} of {self.beside}" if self.beside else ""
        )


@frozen(kw_only=True)
class Verdict:
    """A target beside what was measured, with the interval that 9 of 10 draws lie in."""

    target: Target
    unit: str
    value: float
    low: float
    high: float

    @property
    def met(self) -> bool:
        most, least = self.target.most, self.target.least
        return (most is None or self.value <= most) and (least is None or self.value >= least)


def as_figure(measured: Figure | Sequence[float]) -> Figure:
    """Take a bare list of samples for a figure whose name tells its unit."""
    return measured if isinstance(measured, Figure) else Figure(unit="", samples=measured)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the sample that so great a share is not above; the median of an even number is between."""
    if share == 0.5:
        return statistics.median(ordered)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def at(samples: Sequence[float], name: str) -> float:
    """Give what a target is about: a percentile, `max` or `min`."""
    ordered = sorted(samples)
    if name in PERCENTILES:
        return percentile(ordered, PERCENTILES[name])
    return {"min": ordered[0], "max": ordered[-1]}[name]


def summary(figure: Figure) -> dict[str, object]:
    """Give what is kept of a figure."""
    ordered = sorted(figure.samples)
    made: dict[str, object] = {"unit": figure.unit, "n": len(ordered)}
    if not ordered:
        return made
    made |= {name: round(percentile(ordered, share), 4) for name, share in PERCENTILES.items()}
    made |= {"min": round(ordered[0], 4), "max": round(ordered[-1], 4)}
    if figure.over_time:
        step = max(1, -(-len(figure.samples) // POINTS))
        made["over_time"] = [round(sample, 2) for sample in figure.samples[::step]]
    return made


def judged(targets: Sequence[Target], figures: Mapping[str, Figure]) -> list[Verdict]:
    """Hold those targets against their figures of which all was measured."""
    measured = {name for name, figure in figures.items() if figure.samples}
    return [
        _verdict(target, figures)
        for target in targets
        if {target.figure, target.beside or target.figure} <= measured
    ]


def _verdict(target: Target, figures: Mapping[str, Figure]) -> Verdict:
    figure = figures[target.figure]
    beside = figures[target.beside].samples if target.beside else None
    draw = random.Random(0)  # the same samples give the same interval

    def drawn(samples: Sequence[float]) -> float:
        return at(draw.choices(samples, k=len(samples)), target.at)

    draws = sorted(drawn(figure.samples) / (drawn(beside) if beside else 1.0) for _ in range(DRAWS))
    return Verdict(
        target=target,
        unit="" if beside else figure.unit,
        value=at(figure.samples, target.at) / (at(beside, target.at) if beside else 1.0),
        low=percentile(draws, 0.05),
        high=percentile(draws, 0.95),
    )
