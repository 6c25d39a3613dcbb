"""What `reactor status` shows of channels: their circuits, and the alerts that are open."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from reactor.cli.output import columns, distance, moment, stdout_console, text
from reactor.cli.session import Document, Session
from schemas.channel import CircuitState

#: Columns of a terminal that shows times in full beside all else.
WIDE = 160
MAX_ALERTS = 100
FIELDS = ("circuit", "succeeded_at", "not_before")


async def read_channels(session: Session) -> Document:
    """Read what all workers together know of channels, and what a person should know."""
    # A name is a text; `bucket`, which is beside it, is for workers.
    named = {"_id": {"$type": "string"}}
    channels = session.database["channels"].find(named, dict.fromkeys(FIELDS, 1))
    alerts = session.database["alerts"].find({"resolved_at": None})
    return {
        "channels": await channels.sort("_id", 1).to_list(),
        "alerts": await alerts.sort("at", -1).limit(MAX_ALERTS).to_list(),
    }


def render_channels(found: Mapping[str, Any], now: datetime) -> list[RenderableType]:
    """Give a table of each, where there is anything to be shown."""
    parts: list[RenderableType] = []
    if found["channels"]:
        parts += ["", _channels(found["channels"], now)]
    if found["alerts"]:
        parts += ["", _alerts(found["alerts"], now)]
    return parts


def _channels(channels: Sequence[Mapping[str, Any]], now: datetime) -> Table:
    table = columns("channel", "circuit", "since", "until", "last success", "silent until", "why")
    for channel in channels:
        circuit = channel.get("circuit") or {}
        state = circuit.get("state") or CircuitState.CLOSED.value
        closed = state == CircuitState.CLOSED.value
        silent = channel.get("not_before")
        table.add_row(
            text(channel["_id"]),
            text(state),
            _at(circuit.get("since"), now),
            "" if closed else _at(circuit.get("until"), now),
            _at(channel.get("succeeded_at"), now),
            _at(silent, now) if isinstance(silent, datetime) and silent > now else "",
            "" if closed else text(circuit.get("reason")),
        )
    return table


def _alerts(alerts: Sequence[Mapping[str, Any]], now: datetime) -> Table:
    table = columns("alert", "about", "since", "why")
    for alert in alerts:
        about = alert.get("channel") or alert.get("campaign_id")
        names = (text(alert.get("kind")), text(about))
        table.add_row(*names, _at(alert.get("at"), now), text(alert.get("reason")))
    return table


def _at(at: object, now: datetime) -> str:
    if isinstance(at, datetime) and stdout_console().width < WIDE:
        return distance(at - now)
    return moment(at, now)
