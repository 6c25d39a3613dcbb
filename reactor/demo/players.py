"""
The players: they read what was handed off, as recipients would, and answer by inserting updates.

Recipients see their mailbox, the file of the channel; the agent and the human see the database.
None of them knows more of the engine than its contract.
"""

import heapq
import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from pymongo.asynchronous.database import AsyncDatabase

from reactor.demo.parts import (
    AGENT,
    AGENT_HOURS,
    DELIVERED_SHARE,
    FORGOTTEN,
    HUMAN,
    HUMAN_HOURS,
    Part,
    Turn,
    between,
    chance,
    part_of,
    pick,
)

type Document = dict[str, Any]

MAX_EVENTS = 50
_WAITING = {"_id": 1, "recipient.id": 1, "status": 1, "stage": 1, "reply": 1, "status_since": 1}
_SPOKEN = {
    "bounced": "does not exist: bounced",
    "goal_reached": "renewed by phone: goal reached",
    "opted_out": "unsubscribes",
}


@frozen(kw_only=True)
class Event:
    """Something that a stranger may like to see happen."""

    at: datetime
    text: str


@frozen(kw_only=True, order=True)
class _Planned:
    at: datetime
    id: str
    update: Document = field(order=False)
    said: str | None = field(order=False)


@define
class Mailbox:
    """Reads the lines that the channel appended since the last look."""

    path: Path
    _read: int = field(default=0, init=False)

    def new(self) -> list[Document]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        return [json.loads(line) for line in whole.splitlines() if line.strip()]


class Players:
    """Everybody outside of the engine. `events` are the last things they did."""

    def __init__(
        self, request: Document, mailbox: Mailbox, database: AsyncDatabase[Document]
    ) -> None:
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._request = request["_id"]
        self._mailbox = mailbox
        self._database = database
        recipients: Sequence[Document] = request["recipients"]
        self._names = {each["id"]: each["attributes"]["first_name"] for each in recipients}
        self._parts: Mapping[str, Part] = {
            each["id"]: part_of(place, each["id"]) for place, each in enumerate(recipients)
        }
        self._planned: list[_Planned] = []
        self._keys: set[str] = set()
        self._received: Counter[tuple[str, str]] = Counter()
        self._noticed: set[tuple[str, datetime]] = set()

    async def act(self, now: datetime) -> None:
        """Take notice of what is new, and insert the updates whose time has come."""
        for message in self._mailbox.new():
            self._receive(message)
        await self._look_after_the_waiting()
        due = []
        while self._planned and self._planned[0].at <= now:
            planned = heapq.heappop(self._planned)
            due.append(planned.update)
            if planned.said:
                self.events.append(Event(at=planned.at, text=planned.said))
        if due:
            await self._database["conversation_updates"].insert_many(due, ordered=False)

    def _receive(self, message: Document) -> None:
        """Let it take effect once: a message may come twice, and its key says so."""
        if message["key"] in self._keys:
            return
        self._keys.add(message["key"])
        recipient, stage = message["recipient_id"], message["key"].split("/")[1]
        number = self._received[recipient, stage]
        self._received[recipient, stage] += 1
        at = datetime.fromisoformat(message["at"])
        turns = self._parts[recipient].turns
        turn = next((each for each in turns if (each.stage, each.number) == (stage, number)), None)
        if turn:
            self._plan_turn(turn, message, at)
        bounces = turn is not None and turn.kind == "bounced"
        if not bounces and chance(message["key"], "delivered") < DELIVERED_SHARE:
            report = {"kind": "delivered", "message_id": message["key"]}
            self._plan(recipient, at + timedelta(minutes=3), f"{message['key']}/delivered", report)

    def _plan_turn(self, turn: Turn, message: Document, arrived: datetime) -> None:
        recipient, identity = message["recipient_id"], f"{message['key']}/{turn.kind}"
        about = f"{turn.stage}/{turn.number}"
        at = arrived + timedelta(hours=between(turn.hours, recipient, about))
        update: Document = {"kind": turn.kind}
        said = f"{self._names[recipient]} {_SPOKEN.get(turn.kind, '')}"
        if turn.kind == "reply":
            update |= {"text": pick(turn.texts, recipient, about), "message_id": message["key"]}
            if turn.intent:
                update["intent"] = turn.intent
            said = f"{self._names[recipient]}: {update['text']}  [{turn.intent or 'unclassified'}]"
        self._plan(recipient, at, identity, update, said)

    async def _look_after_the_waiting(self) -> None:
        """Plan for what is held, the agent's, and what is escalated, a human's, who forgets one."""
        waiting = self._database["conversations"].find(
            {
                "batch_request_id": self._request,
                "status": {"$in": ["awaiting_agent", "escalated"]},
            },
            _WAITING,
        )
        async for conversation in waiting:
            noticed = conversation["_id"], conversation["status_since"]
            if noticed in self._noticed:
                continue
            self._noticed.add(noticed)
            if conversation["status"] == "awaiting_agent":
                self._plan_agent(conversation)
            else:
                self._plan_human(conversation)

    def _plan_agent(self, conversation: Document) -> None:
        recipient, reply = conversation["recipient"]["id"], conversation["reply"]
        update = dict(AGENT[reply["text"]])
        names_reply = "reply_id" if update["kind"] == "reply" else "in_reply_to"
        update[names_reply] = reply["id"]
        what = f"reads {update['intent']}" if "intent" in update else "answers"
        said = f'the agent {what}, to {self._names[recipient]}\'s "{reply["text"]}"'
        hours = between(AGENT_HOURS, recipient, reply["id"])
        at = conversation["status_since"] + timedelta(hours=hours)
        self._plan(recipient, at, f"{reply['id']}/agent", update, said)

    def _plan_human(self, conversation: Document) -> None:
        recipient, stage = conversation["recipient"]["id"], conversation["stage"]
        if self._parts[recipient].name == FORGOTTEN:
            return
        resolution = pick(HUMAN[stage], recipient, f"{stage}/human")
        spelled = f"go to {resolution['go_to']}" if isinstance(resolution, dict) else resolution
        said = f"a human takes over {self._names[recipient]}: {spelled}"
        hours = between(HUMAN_HOURS, recipient, f"{stage}/human")
        at = conversation["status_since"] + timedelta(hours=hours)
        update = {"kind": "escalation_resolved", "resolution": resolution}
        self._plan(recipient, at, f"{conversation['_id']}/{stage}/human", update, said)

    def _plan(
        self, recipient: str, at: datetime, identity: str, update: Document, said: str | None = None
    ) -> None:
        whom = {"batch_request_id": self._request, "recipient_id": recipient}
        update = {"_id": identity, **whom, **update, "at": at}
        heapq.heappush(self._planned, _Planned(at=at, id=identity, update=update, said=said))
