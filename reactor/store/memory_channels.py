"""What is known of channels, and their buckets of tokens, in memory."""

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta

from reactor.store.memory_base import MemoryBase
from reactor.store.mongo_channels import EPSILON, FIELDS
from reactor.store.protocol import Tokens
from schemas.channel import Alert, ChannelState
from schemas.converter import InvalidDocumentError, from_document, to_document
from schemas.evolving import evolve
from schemas.hand_off import ChannelSpec


class MemoryChannels(MemoryBase):
    async def channels(self) -> tuple[datetime, Mapping[str, ChannelState]]:
        await self._pause()
        return self._clock(), self._states()

    def _states(self) -> Mapping[str, ChannelState]:
        states = {}
        for stored in self._of("channels"):
            with suppress(InvalidDocumentError):
                states[stored.fields["_id"]] = from_document(ChannelState, stored.fields)
        return states

    async def write_channel(self, before: ChannelState, after: ChannelState) -> bool:
        await self._pause()
        present = self._states().get(before.id, ChannelState(id=before.id))
        if present.version != before.version:
            return False
        written = to_document(evolve(after, version=before.version + 1))
        self._put(before.id, {name: written[name] for name in (*FIELDS, "version")})
        return True

    def _put(self, channel: str, fields: Mapping[str, object]) -> None:
        self._of("channels").insert(to_document(ChannelState(id=channel)))
        stored = self._of("channels").get(channel)
        if stored:
            stored.set(fields)

    async def take_tokens(self, spec: ChannelSpec, wanted: int) -> Tokens:
        await self._pause()
        now, interval = self._clock(), interval_of(spec)
        state = self._states().get(spec.name, ChannelState(id=spec.name))
        base = max(state.tokens_from or now, now)
        free = math.floor((now + spec.burst * interval - base) / interval + EPSILON)
        granted = max(0, min(wanted, free))
        self._put(spec.name, {"tokens_from": base + granted * interval})
        return Tokens(
            granted=granted,
            lasts_seconds=1 - now.microsecond / 1_000_000,
            state=self._states()[spec.name],
            now=now,
        )

    async def return_tokens(self, spec: ChannelSpec, unused: int) -> None:
        await self._pause()
        state = self._states().get(spec.name)
        if state and state.tokens_from:
            self._put(spec.name, {"tokens_from": state.tokens_from - unused * interval_of(spec)})

    async def raise_alert(self, alert: Alert) -> bool:
        await self._pause()
        inserted = self._of("alerts").insert(to_document(alert))
        stored = self._of("alerts").get(alert.id)
        if inserted or stored is None or not alert.resolved_at:
            return inserted
        if stored.fields["resolved_at"]:
            return False
        stored.set({"resolved_at": alert.resolved_at})
        return True


def interval_of(spec: ChannelSpec) -> timedelta:
    """Give the time between two tokens."""
    if not spec.rate:
        raise ValueError(f"channel {spec.name!r} has no rate")
    return timedelta(seconds=1 / spec.rate)
