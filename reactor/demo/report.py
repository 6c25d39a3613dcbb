"""What the demo says when it is over: counts, one conversation, and what to try next."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import frozen
from pymongo.asynchronous.database import AsyncDatabase
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reactor.demo.figures import Figures
from reactor.demo.screen import day_of, stage_bars

type Document = dict[str, Any]

MESSAGES, LOG, DATABASE = "messages.jsonl", "worker.log", "mongodb"
LEFT = {
    MESSAGES: "every message, one JSON line each",
    LOG: "what the worker logged",
    DATABASE: "the database; its mongod is stopped",
}
ONE_HOUR = timedelta(hours=1)
#: Worth showing as an example: one that went through everything, if there is one.
_RICH = {"exit_reason": "final_stage", "history.reason": {"$all": ["agent_message_sent"]}}
_SHOWN = {"recipient": 1, "history": 1, "exit_reason": 1}


@frozen(kw_only=True)
class Example:
    """One conversation, as the database tells it."""

    conversation: Document
    #: Subjects and texts of replies by the moment or the id that the history names.
    subjects: Mapping[str, str]
    replies: Mapping[str, str]


async def read_example(database: AsyncDatabase[Document], request: Document) -> Example | None:
    mine = {"batch_request_id": request["_id"]}
    conversations = database["conversations"]
    order = [("recipient.id", 1)]
    found = await conversations.find_one({**mine, **_RICH}, _SHOWN, sort=order)
    found = found or await conversations.find_one(mine, _SHOWN, sort=order)
    if found is None:
        return None
    messages = database["messages"].find(
        {"conversation_id": found["_id"]}, {"subject": 1, "sent_at": 1}
    )
    updates = database["conversation_updates"].find(
        {**mine, "recipient_id": found["recipient"]["id"], "kind": "reply"},
        {"text": 1, "intent": 1},
    )
    return Example(
        conversation=found,
        subjects={str(each["sent_at"]): each["subject"] or "" async for each in messages},
        replies={each["_id"]: each.get("text") or each["intent"] async for each in updates},
    )


def print_report(
    console: Console, figures: Figures, example: Example | None, wall_seconds: float
) -> None:
    campaign = figures.campaign
    if campaign is None:
        return
    over = campaign["completed_at"] or figures.now
    lasted = _spelled(over - campaign["started_at"])
    console.print()
    console.print(
        f"{campaign['name']}: {campaign['status']}"
        f"{_because(campaign)}, {lasted} of campaign time in {wall_seconds:.0f} s.",
        style="bold",
    )
    console.print()
    console.print(f"{figures.recipients} recipients. How far they came:")
    console.print(stage_bars(figures))
    console.print()
    console.print("How their conversations ended:")
    console.print(_table(figures.by_exit_reason))
    if figures.open:
        console.print(f"  {figures.open} are still open.")
    console.print()
    console.print("What became of the messages:")
    console.print(_table(figures.messages))
    console.print()
    console.print("What was replied:")
    console.print(_table(figures.replies))
    if example:
        _print_example(console, example, campaign["started_at"])


def print_farewell(console: Console, home: Path) -> None:
    """Say what is left of the demo, and what to do with it; its mongod is stopped."""
    console.print()
    console.print("What it leaves:")
    for name, meaning in LEFT.items():
        if (home / name).exists():
            console.print(f"  {home / name}  {meaning}", soft_wrap=True)
    console.print()
    console.print("What to try next:")
    console.print("  examples/renewal.yaml   change a stage or a delay, and run the demo again")
    console.print("  README.md               insert a request of your own, in Python or JavaScript")


def _because(campaign: Document) -> str:
    reason = campaign["completion_reason"]
    return f" ({reason})" if reason else ""


def _spelled(span: timedelta) -> str:
    return f"{span // timedelta(days=1)} days {span % timedelta(days=1) // ONE_HOUR} h"


def _table(counts: Mapping[str, int]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", min_width=6)
    table.add_column()
    for name, number in counts.items():
        table.add_row(str(number), name)
    return table


def _print_example(console: Console, example: Example, started_at: datetime) -> None:
    conversation = example.conversation
    recipient = conversation["recipient"]
    console.print()
    console.print(
        f"One of the conversations ({recipient['attributes']['first_name']},"
        f" {recipient.get('timezone', 'UTC')}), from its history:"
    )
    table = Table.grid(padding=(0, 2))
    for entry in conversation["history"]:
        said = example.replies.get(entry["by"], "")
        if entry["reason"].endswith("_sent"):
            said = example.subjects.get(str(entry["at"]), "")
        day = f"  day {day_of(entry['at'], started_at):>2} {entry['at']:%H:%M}"
        table.add_row(day, entry["stage"], entry["reason"], Text(said, style="dim"))
    console.print(table)
