"""The picture: how near each target is, how latencies are spread, how memory went. SVG by hand."""

import math
from html import escape

from bench.figures import judged, percentile
from bench.report import shown, wanted

WIDTH, MARGIN, LINE = 960, 16, 22
#: Where bars begin and end; the target lies in the middle, a bar ends at twice as much.
LEFT, RIGHT = 470, 800
TARGET = (LEFT + RIGHT) / 2
BINS = 60
HEIGHT = 56
MET, MISSED, NEUTRAL, INK = "#2a9d6f", "#c8553d", "#4a7fb5", "#333"
STYLE = f"text{{font:13px sans-serif;fill:{INK}}} .small{{font-size:11px;fill:#777}}"


def picture(figures, targets, machine):
    """Draw it; `figures` and `targets` as in the report."""
    title = f"reactor on {machine['cores']} cores ({machine['cpu']}), mongod {machine['mongod']}"
    parts, y = [_text(MARGIN, 28, f"{title}, {machine['commit'] or 'no commit'}")], 56
    verdicts = judged(targets, figures)
    if verdicts:
        parts.append(_text(TARGET, y, "target", "small", "middle"))
        parts += _bars(verdicts, y + 6)
        bottom = y + 6 + LINE * len(verdicts)
        parts.append(
            f'<path d="M{TARGET} {y + 4}V{bottom}" stroke="{INK}" stroke-dasharray="3 3"/>'
        )
        y = bottom + 30
    spread = {name: each.samples for name, each in figures.items() if _is_spread(each)}
    # One scale for all, so that they can be compared.
    low = max(0.01, min(map(min, spread.values()), default=1))
    high = max(low * 1.01, max(map(max, spread.values()), default=1))
    for name, figure in figures.items():
        if name in spread:
            parts.append(_histogram(name, figure.samples, (low, high), y))
        elif figure.over_time and len(figure.samples) > 1:
            parts.append(_line(name, figure, y))
        else:
            continue
        y += HEIGHT + 34
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}">'
    back = f'<style>{STYLE}</style><rect width="{WIDTH}" height="{y}" fill="#fff"/>'
    return "\n".join([head, back, *parts, "</svg>\n"])


def _is_spread(figure):
    """Say whether a figure is of so many latencies that it is worth seeing how they are spread."""
    return figure.unit == "ms" and len(figure.samples) >= BINS


def _bars(verdicts, y):
    """Draw what was measured as a part of what is wanted: left of the line is good."""
    for number, each in enumerate(verdicts):
        target, top = each.target, y + LINE * number
        if target.most is not None:
            share = each.value / target.most
        else:
            share = target.least / each.value if each.value else 2
        width = min(share, 2) * (TARGET - LEFT)
        colour = MET if each.met else MISSED
        yield _text(LEFT - 8, top + 15, target.what, anchor="end")
        yield f'<rect x="{LEFT}" y="{top + 4}" width="{width:.1f}" height="14" fill="{colour}"/>'
        unit = f" {each.unit}" if each.unit else ""
        yield _text(RIGHT + 8, top + 15, f"{shown(each.value)}{unit} ({wanted(each)})")


def _histogram(name, samples, ends, y):
    """Draw how many samples took how long, on a logarithmic scale."""
    ordered = sorted(samples)
    low, high = ends
    counts = [0] * BINS
    for sample in ordered:
        share = math.log(max(sample, low) / low) / math.log(high / low)
        counts[min(BINS - 1, int(share * BINS))] += 1
    width = (WIDTH - LEFT - MARGIN) / BINS
    most = max(counts)
    bars = "".join(
        f'<rect x="{LEFT + at * width:.1f}" y="{y + HEIGHT - HEIGHT * count / most:.1f}"'
        f' width="{width - 1:.1f}" height="{HEIGHT * count / most:.1f}" fill="{NEUTRAL}"/>'
        for at, count in enumerate(counts)
        if count
    )
    p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
    figures = f"p50 {shown(p50)} ms, p99 {shown(p99)} ms, n {len(ordered):,}"
    return bars + _labels(name, figures, (f"{shown(low)} ms", f"{shown(high)} ms"), y)


def _line(name, figure, y):
    """Draw how a figure went over time, from nothing up."""
    samples, most = figure.samples, max(figure.samples) or 1
    step = (WIDTH - LEFT - MARGIN) / (len(samples) - 1)
    points = " ".join(
        f"{LEFT + at * step:.1f},{y + HEIGHT - HEIGHT * sample / most:.1f}"
        for at, sample in enumerate(samples)
    )
    line = f'<polyline points="{points}" fill="none" stroke="{NEUTRAL}" stroke-width="1.5"/>'
    unit = figure.unit
    return line + _labels(name, f"at most {shown(most)} {unit}", ("time", ""), y)


def _labels(name, figures, ends, y):
    begin, end = ends
    bottom = y + HEIGHT
    return (
        f'<path d="M{LEFT} {bottom}H{WIDTH - MARGIN}" stroke="#bbb"/>'
        + _text(LEFT - 8, bottom - 22, name, anchor="end")
        + _text(LEFT - 8, bottom - 6, figures, "small", "end")
        + _text(LEFT, bottom + 14, begin, "small")
        + _text(WIDTH - MARGIN, bottom + 14, end, "small", "end")
    )


def _text(x, y, text, kind="", anchor="start"):
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
