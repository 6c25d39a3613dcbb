"""What the demo shows: figures of its campaign, read from the collections that an agent reads."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import frozen
from pymongo.asynchronous.database import AsyncDatabase

type Document = dict[str, Any]


@frozen(kw_only=True)
class StageFigures:
    id: str
    #: Conversations that came at least this far.
    reached: int
    #: Open ones that are here now.
    open: int


@frozen(kw_only=True)
class Figures:
    now: datetime
    #: Without its template; None until the request was accepted.
    campaign: Document | None
    #: `problems` of a request that was rejected.
    problems: tuple[str, ...]
    recipients: int
    stages: tuple[StageFigures, ...]
    by_status: Mapping[str, int]
    by_exit_reason: Mapping[str, int]
    messages: Mapping[str, int]
    replies: Mapping[str, int]

    @property
    def open(self) -> int:
        return sum(stage.open for stage in self.stages)

    @property
    def ended(self) -> int:
        return sum(self.by_exit_reason.values())

    @property
    def sent(self) -> int:
        return sum(self.messages.get(status, 0) for status in ("sent", "delivered", "bounced"))

    @property
    def is_over(self) -> bool:
        return bool(self.problems or (self.campaign and self.campaign["completed_at"]))


async def read_figures(
    database: AsyncDatabase[Document], request: Document, now: datetime
) -> Figures:
    mine = {"batch_request_id": request["_id"]}
    conversations = await _group(
        database, "conversations", mine, ("stage", "status", "exit_reason")
    )
    # The agent's late classification is an update of its own, not one more reply.
    replies = {**mine, "kind": "reply", "reply_id": {"$exists": False}, "status": {"$exists": True}}
    answer = await database["batch_requests"].find_one({"_id": request["_id"]}, {"problems": 1})
    order = [stage["id"] for stage in request["template"]["stages"]]
    return Figures(
        now=now,
        campaign=await database["campaigns"].find_one(mine, {"template": 0}),
        problems=tuple((answer or {}).get("problems", ())),
        recipients=len(request["recipients"]),
        stages=_stages(order, conversations),
        by_status=_sum(conversations, "status"),
        by_exit_reason=_sum(conversations, "exit_reason"),
        messages=_sum(await _group(database, "messages", mine, ("status",)), "status"),
        replies=_sum(
            await _group(database, "conversation_updates", replies, ("intent",)),
            "intent",
            absent="unclassified",
        ),
    )


async def _group(
    database: AsyncDatabase[Document], collection: str, match: Document, fields: Sequence[str]
) -> list[Document]:
    """Count documents by some fields; each group has these and its number as `n`."""
    group = {"_id": {name: f"${name}" for name in fields}, "n": {"$sum": 1}}
    found = await database[collection].aggregate([{"$match": match}, {"$group": group}])
    return [{**each["_id"], "n": each["n"]} async for each in found]


def _sum(groups: Sequence[Document], name: str, absent: str | None = None) -> dict[str, int]:
    """Sum up groups by one field, the largest first; those without it count as `absent`."""
    sums: dict[str, int] = {}
    for group in groups:
        value = group.get(name) or absent
        if value is not None:
            sums[value] = sums.get(value, 0) + group["n"]
    return dict(sorted(sums.items(), key=lambda entry: (-entry[1], entry[0])))


def _stages(order: Sequence[str], groups: Sequence[Document]) -> tuple[StageFigures, ...]:
    """Count stages; the demo's template only goes forward, so its order says who came how far."""
    return tuple(
        StageFigures(
            id=stage,
            reached=sum(group["n"] for group in groups if order.index(group["stage"]) >= place),
            open=sum(
                group["n"]
                for group in groups
                if group["stage"] == stage and not group.get("exit_reason")
            ),
        )
        for place, stage in enumerate(order)
    )
