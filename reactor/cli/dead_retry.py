"""`reactor dead retry`: put back what was parked, retry what failed, send again what is held."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping

import click
from attrs import frozen
from bson.objectid import ObjectId

from reactor.cli.bulk import (
    Advance,
    Answered,
    agreed,
    batches,
    connected,
    insert_updates,
    progress,
    report,
    which,
)
from reactor.cli.find_letter import the_letter
from reactor.cli.held import Held, the_campaign_id
from reactor.cli.letters import (
    INBOXES,
    PARKED,
    Kind,
    Letter,
    Selection,
    failed,
    groups,
    held,
    parked,
)
from reactor.cli.output import text
from reactor.cli.session import Document, Session
from reactor.cli.unknown import resolutions
from schemas.update import Resolve, UpdateKind

#: What the worker wrote on a document when it parked it, and before.
ANSWER = (
    *("status", "reason", "problems", "applied_at", "decided_at"),
    *("failures", "due_at"),
)


@frozen(kw_only=True)
class Retry:
    """What is asked for."""

    ids: tuple[str, ...]
    everything: bool
    campaign: str | None
    reason: str | None
    dry_run: bool
    yes: bool
    timeout: float
    no_wait: bool

    @property
    def seconds(self) -> float | None:
        return None if self.no_wait else self.timeout


@frozen(kw_only=True)
class _Plan:
    """What is meant: letters that were named, or all of a selection; how many, by kind and reason."""

    named: tuple[Letter, ...] = ()
    selection: Selection
    counts: Mapping[tuple[Kind, str], int]

    def letters(self, session: Session, kind: Kind) -> AsyncIterator[Letter]:
        if self.named:
            return _each(letter for letter in self.named if letter.kind is kind)
        if kind is Kind.CONVERSATION:
            return failed(session, self.selection)
        if kind is Kind.MESSAGE:
            return held(session, self.selection)
        return parked(session, kind, self.selection)

    def count(self, kind: Kind) -> int:
        return sum(count for (each, _), count in self.counts.items() if each is kind)


def retry_letters(order: Retry) -> None:
    narrowed = order.campaign is not None or order.reason is not None
    which(order.ids, everything=order.everything, narrowed=narrowed)
    plan = connected(lambda session: _plan(session, order))
    if not plan.counts:
        click.echo("no dead letters")
        return
    if order.dry_run:
        for line in _spelled(plan):
            click.echo(line)
        click.echo("Nothing was done (--dry-run).")
        return
    if order.everything:
        agreed("\n".join([*_spelled(plan), "Retry them?"]), yes=order.yes)
    put_back, results = connected(lambda session: _carried_out(session, plan, order.seconds))
    for kind, count in put_back.items():
        click.echo(f"{kind}: {count} put back, for the next sweep of a worker")
    report(results, order.seconds)


async def _plan(session: Session, order: Retry) -> _Plan:
    campaign = await the_campaign_id(session, order.campaign)
    selection = Selection(campaign=campaign, reason=order.reason, until=session.now)
    if order.ids:
        found = [await the_letter(session, reference) for reference in order.ids]
        named = {(letter.kind, str(letter.id)): letter for letter in found}
        counts = Counter((letter.kind, letter.reason) for letter in named.values())
        return _Plan(named=tuple(named.values()), selection=selection, counts=counts)
    counts = Counter()
    for group in await groups(session, selection):
        counts[group.example.kind, group.example.reason] += group.count
    return _Plan(selection=selection, counts=counts)


def _spelled(plan: _Plan) -> Iterable[str]:
    does = {Kind.CONVERSATION: "retry", Kind.MESSAGE: "send again"}
    for (kind, reason), count in sorted(plan.counts.items()):
        yield f"{does.get(kind, 'put back')}: {count} {kind.value}, {text(reason)}"


async def _carried_out(
    session: Session, plan: _Plan, seconds: float | None
) -> tuple[dict[str, int], dict[str, Answered]]:
    """Do it; how many were put back, by kind, and how updates were answered."""
    put_back, results = {}, {}
    for kind in Kind:
        total = plan.count(kind)
        if not total:
            continue
        with progress(kind.value, total) as advance:
            if kind in INBOXES:
                put_back[kind.value] = await _put_back(session, plan, kind, advance)
            else:
                updates = batches(_updates(plan.letters(session, kind), kind))
                results[kind.value] = await insert_updates(session, updates, seconds, advance)
    return put_back, results


async def _put_back(session: Session, plan: _Plan, kind: Kind, advance: Advance) -> int:
    """Take the answer off, batch by batch, of what is still parked."""
    inbox, count = session.inbox(INBOXES[kind]), 0
    async for batch in batches(plan.letters(session, kind)):
        query = {"_id": {"$in": [letter.id for letter in batch]}, "status": PARKED}
        result = await inbox.update_many(query, {"$unset": dict.fromkeys(ANSWER, "")})
        count += result.modified_count
        advance(len(batch))
    return count


def _updates(letters: AsyncIterator[Letter], kind: Kind) -> AsyncIterator[Document]:
    if kind is Kind.MESSAGE:
        return resolutions(_messages(letters), Resolve.RESEND)
    return _retries(letters)


async def _retries(letters: AsyncIterator[Letter]) -> AsyncIterator[Document]:
    async for letter in letters:
        yield {
            "_id": ObjectId(),
            "conversation_id": letter.id,
            "kind": UpdateKind.RETRY.value,
        }


async def _messages(letters: AsyncIterator[Letter]) -> AsyncIterator[Held]:
    async for letter in letters:
        if letter.held:
            yield letter.held


async def _each(letters: Iterable[Letter]) -> AsyncIterator[Letter]:
    for letter in letters:
        yield letter
