"""`reactor repair`: puts right what `reactor verify` finds and can be put right safely."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import click
from attrs import frozen

from reactor.cli.bulk import agreed, connected, progress, which
from reactor.cli.failure import ExitCode
from reactor.cli.output import extended_json, text
from reactor.cli.remedies import ADVICE, Hands, put_right
from reactor.cli.session import Session
from reactor.cli.suspects import Verifier
from reactor.cli.verify import (
    Progress,
    conversations_of,
    document_of,
    evidence_of,
    findings,
    line_of,
    one_of,
    subject,
)
from reactor.store.mongo import MongoStore
from schemas.finding import Finding, Remedy

#: Findings of one run: bounds memory. Another run finds the rest.
MOST = 10_000
SPELLED: Mapping[Remedy, str] = {
    Remedy.DUE_TIME: "derive its due time again",
    Remedy.CAMPAIGN_DUE_TIME: "derive its due time again",
    Remedy.COUNTS: "count it again",
    Remedy.REJECTION: "take its recipient off the rejected ones",
}


@frozen(kw_only=True)
class Order:
    """What is to be repaired, and how."""

    campaign: str | None
    everything: bool
    patience: float | None
    dry_run: bool
    yes: bool
    as_json: bool


@click.command()
@subject
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print lines of Extended JSON.")
def repair(**options: Any) -> None:
    """
    Put right what `reactor verify` finds, where that is safe.

    Due times are derived again from what a conversation or a campaign waits for; counts are taken
    again; who was rejected and has a conversation is no longer rejected. Each write is guarded by
    the version that was read; nothing is sent, cancelled or forgotten. All else is listed, with
    what a person can do. On a terminal it asks before it writes.

    Exit codes: 0 nothing is left (with --dry-run: always), 1 something is, 3 no such campaign.

    CAMPAIGN is named as for `reactor verify`.
    """
    _repair(Order(**options))


def _repair(order: Order) -> None:
    named = [order.campaign] if order.campaign else []
    which(named, everything=order.everything, narrowed=False)
    found = connected(lambda session: _found(session, order))
    safe = [finding for finding in found if finding.remedy is not Remedy.PERSON]
    if not order.as_json:
        for finding in found:
            click.echo(_planned(finding))
    left: Sequence[Finding] = found
    if safe and not order.dry_run:
        agreed(f"Put {len(safe)} right?", yes=order.yes)
        left = connected(lambda session: _put_right(session, found, safe))
    _report(order, found, left)
    if (left or len(found) == MOST) and not order.dry_run:
        raise click.exceptions.Exit(ExitCode.FAILED)


async def _found(session: Session, order: Order) -> list[Finding]:
    campaign, seen = await one_of(session, order.campaign), Progress()
    with progress("Verifying", await conversations_of(session, campaign)) as seen.advance:
        found: list[Finding] = []
        async for finding in findings(session, campaign, order.patience, seen):
            found.append(finding)
            if len(found) == MOST:
                click.echo(f"These are the first {MOST}: run it again for the rest.", err=True)
                break
        return found


async def _put_right(
    session: Session, found: Sequence[Finding], safe: Sequence[Finding]
) -> list[Finding]:
    """Put right what is safe, look at everything again, and give what is still wrong."""
    evidence = evidence_of(session)
    store = MongoStore(session.database, session.settings.time_scale())
    hands = Hands(session=session, store=store, evidence=evidence)
    with progress("Putting right", len(safe)) as advance:
        for finding in safe:
            await put_right(hands, finding)
            advance(1)
    verifier, left = Verifier(evidence=evidence, patience_seconds=0.0), []
    for campaign, some in groupby(found, key=lambda finding: finding.campaign_id):
        known = list(some)
        identities = {finding.identity for finding in known}
        again = await verifier.look_again(campaign, known)
        left += [finding for finding in again if finding.identity in identities]
    return left


def _planned(finding: Finding) -> str:
    return f"{line_of(finding)}: {_remedy(finding)}"


def _remedy(finding: Finding) -> str:
    if finding.remedy is Remedy.PERSON:
        return f"for a person: {ADVICE[finding.invariant]}"
    return SPELLED[finding.remedy]


def _report(order: Order, found: Sequence[Finding], left: Sequence[Finding]) -> None:
    still = {finding.identity for finding in left}
    if order.as_json:
        for finding in found:
            done = finding.identity not in still
            advice = {"advice": _remedy(finding), "done": done}
            click.echo(extended_json({**document_of(finding), **advice}, indent=None))
        return
    if not found:
        click.echo("nothing is to be put right")
    elif order.dry_run:
        click.echo(f"{len(found)} found, nothing was done")
    else:
        click.echo(f"{len(found) - len(still)} put right, {len(still)} left")
        for finding in left:
            click.echo(f"left: {text(line_of(finding))}")
