"""What one sees while the demo runs: a live picture on a terminal, else now and then a line."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from time import monotonic
from types import TracebackType
from typing import Self

from attrs import define, field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reactor.demo.figures import Figures
from reactor.demo.players import Event

FRAME_SECONDS = 0.2
LINE_SECONDS = 3.0
BAR = 32
#: All in all no higher than the 24 lines of a small terminal.
SHOWN_EVENTS = 6
#: Left free behind an event: terminals differ about the width of some scripts.
ROOM = 10
ONE_DAY = timedelta(days=1)


@define
class Screen:
    console: Console
    title: str
    scale: float
    _live: Live | None = field(default=None, init=False)
    _shown_at: float = field(default=0.0, init=False)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def is_due(self) -> bool:
        pause = FRAME_SECONDS if self._live else LINE_SECONDS
        return monotonic() - self._shown_at >= pause

    def show(self, figures: Figures, events: Sequence[Event]) -> None:
        self._shown_at = monotonic()
        if self._live:
            self._live.update(self._frame(figures, events), refresh=True)
        elif figures.campaign:
            self.console.print(line(figures))

    def _frame(self, figures: Figures, events: Sequence[Event]) -> RenderableType:
        if figures.campaign is None:
            return Text("The request waits to be accepted ...", style="dim")
        return Group(
            _header(self.title, self.scale, figures),
            Text(),
            stage_bars(figures),
            Text(),
            _counts(figures),
            Text(),
            *_last(events, figures.campaign["started_at"], self.console.width - ROOM),
        )


def line(figures: Figures) -> str:
    """Give one line of progress."""
    return (
        f"{clock(figures):<12}  messages sent {figures.sent:>4}"
        f"   replies {sum(figures.replies.values()):>4}"
        f"   conversations open {figures.open:>4}, ended {figures.ended:>4}"
    )


def clock(figures: Figures) -> str:
    """Give the campaign's day, `day 12 of 30`."""
    campaign = figures.campaign
    if campaign is None:
        return ""
    last = (campaign["deadline_at"] - campaign["started_at"]) // ONE_DAY
    return f"day {min(day_of(figures.now, campaign['started_at']), last)} of {last}"


def day_of(moment: datetime, started_at: datetime) -> int:
    """Count the days of the calendar (UTC): the campaign starts on day 1."""
    return (moment.date() - started_at.date()).days + 1


def _header(title: str, scale: float, figures: Figures) -> RenderableType:
    table = Table.grid(expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(Text(title, style="bold"), Text(clock(figures), style="bold cyan"))
    pace = f"a day takes {ONE_DAY.total_seconds() / scale:.1f} s"
    table.add_row(Text(pace, style="dim"), Text(f"{figures.now:%A %H:%M} UTC", style="dim"))
    return table


def stage_bars(figures: Figures) -> RenderableType:
    """Show how many conversations came how far, and how many are there now."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", min_width=10)
    table.add_column(min_width=BAR)
    table.add_column(justify="right", min_width=4)
    table.add_column(style="dim")
    for stage in figures.stages:
        now = f"{stage.open} of them there now" if stage.open else ""
        bar = _bar(stage.reached, stage.open, figures.recipients)
        table.add_row(stage.id, bar, str(stage.reached), now)
    return table


def _bar(reached: int, still_there: int, total: int) -> Text:
    """Draw who came this far; those who are there now are bright."""
    full, bright = (round(BAR * number / max(1, total)) for number in (reached, still_there))
    bright = min(full, max(bright, int(still_there > 0)))
    return Text.assemble(
        ("█" * bright, "cyan"), ("█" * (full - bright), "blue"), ("·" * (BAR - full), "dim")
    )


def _counts(figures: Figures) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", min_width=10)
    table.add_column()
    counts: Mapping[str, Mapping[str, int]] = {
        "now": figures.by_status,
        "ended": figures.by_exit_reason,
        "messages": figures.messages,
        "replies": figures.replies,
    }
    for name, numbers in counts.items():
        spelled = ", ".join(f"{number} {word}" for word, number in numbers.items())
        table.add_row(name, spelled or "none yet")
    return table


def _last(events: Sequence[Event], started_at: datetime, width: int) -> list[Text]:
    lines = []
    for event in events[-SHOWN_EVENTS:]:
        day = f"day {day_of(event.at, started_at):>2} {event.at:%H:%M}  "
        line_of_event = Text.assemble((day, "dim"), event.text, no_wrap=True)
        line_of_event.truncate(width, overflow="ellipsis")
        lines.append(line_of_event)
    return lines
