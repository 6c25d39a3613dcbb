"""What is known of channels, and their buckets of tokens, in MongoDB."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from reactor.store.base import CHANNELS, MongoBase
from reactor.store.calls import call
from reactor.store.protocol import Tokens
from schemas.channel import Alert, ChannelState
from schemas.converter import to_document
from schemas.hand_off import ChannelSpec

MILLISECONDS = 1_000
#: Against the rounding of a division.
EPSILON = 1e-6
#: What `write_channel` writes.
FIELDS = ("circuit", "succeeded_at", "not_before")


class MongoChannels(MongoBase):
    @call
    async def channels(self) -> tuple[datetime, Mapping[str, ChannelState]]:
        now, found = await self._collect({"channels": CHANNELS})
        return now, self._states(found["channels"])

    @call
    async def write_channel(self, before: ChannelState, after: ChannelState) -> bool:
        document = to_document(after)
        # A bucket may have been there before anything else was known.
        version = before.version or {"$in": [0, None]}
        try:
            result = await self._carried.channels.update_one(
                {"_id": before.id, "version": version},
                {"$set": {name: document[name] for name in FIELDS}, "$inc": {"version": 1}},
                upsert=not before.version,
            )
        except DuplicateKeyError:
            return False
        return bool(result.matched_count or result.upserted_id is not None)

    @call
    async def take_tokens(self, spec: ChannelSpec, wanted: int) -> Tokens:
        # Not carried by anything: tokens that a fail-over forgets are a burst more.
        found = await self._carried.channels.find_one_and_update(
            {"_id": spec.name},
            taking(wanted, spec.burst, self._interval(spec)),
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        if found is None:
            raise LookupError("an upsert gave no document")
        milliseconds = found["taken_at"].microsecond / MILLISECONDS
        return Tokens(
            granted=int(found["granted"]),
            lasts_seconds=1 - milliseconds / MILLISECONDS,
            state=self._state(found),
            now=self._read_time(found["taken_at"]),
        )

    @call
    async def return_tokens(self, spec: ChannelSpec, unused: int) -> None:
        back = -unused * self._interval(spec)
        await self._carried.channels.update_one({"_id": spec.name}, {"$inc": {"bucket": back}})

    @call
    async def raise_alert(self, alert: Alert) -> bool:
        document = to_document(alert)
        resolved = {"resolved_at": document.pop("resolved_at")}
        try:
            result = await self._database.alerts.update_one(
                {"_id": alert.id, **({"resolved_at": None} if alert.resolved_at else {})},
                {"$setOnInsert": document | ({} if alert.resolved_at else resolved)}
                | ({"$set": resolved} if alert.resolved_at else {}),
                upsert=True,
            )
        except DuplicateKeyError:
            # It is over already.
            return False
        return bool(result.modified_count or result.upserted_id is not None)

    def _interval(self, spec: ChannelSpec) -> float:
        """Give the real milliseconds between two tokens."""
        if not spec.rate:
            raise ValueError(f"channel {spec.name!r} has no rate")
        return MILLISECONDS / (spec.rate * self._scale.scale)


def taking(wanted: int, burst: int, interval: float) -> list[Mapping[str, Any]]:
    """
    Spell GCRA for the database: one bucket, one atomic step, the server's clock.

    `bucket` is when it will be full again, in milliseconds: a date would round away the tokens of
    fast channels.
    """
    return [
        {"$set": {"now": {"$toDouble": {"$toLong": "$$NOW"}}}},
        {"$set": {"base": {"$max": ["$bucket", "$now"]}}},
        {"$set": {"room": {"$subtract": [{"$add": ["$now", burst * interval]}, "$base"]}}},
        {
            "$set": {
                "free": {"$floor": {"$add": [{"$divide": ["$room", interval]}, EPSILON]}},
            }
        },
        {"$set": {"granted": {"$max": [0, {"$min": [wanted, "$free"]}]}}},
        {
            "$set": {
                "bucket": {"$add": ["$base", {"$multiply": ["$granted", interval]}]},
                "taken_at": "$$NOW",
            }
        },
        {"$unset": ["now", "base", "room", "free"]},
    ]
