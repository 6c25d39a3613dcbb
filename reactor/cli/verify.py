"""`reactor verify`: proves from the documents alone that the invariants hold, while workers work."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import click
from attrs import define

from reactor.cli.bulk import Advance, limit_of, limit_option, limited, progress, which
from reactor.cli.evidence import Evidence
from reactor.cli.failure import ExitCode, Failure
from reactor.cli.find import the_campaign
from reactor.cli.held import campaign_ids
from reactor.cli.output import extended_json, text
from reactor.cli.session import Session, with_session
from reactor.cli.suspects import Verifier
from reactor.indexes import missing_indexes
from schemas.finding import Finding
from schemas.ids import CampaignId

#: So many times a lease and a poll: a lease that is over for so long is taken over by nobody.
LONG = 10


@define
class Progress:
    """What was looked at, and where that is told."""

    campaigns: int = 0
    conversations: int = 0
    advance: Advance = lambda _: None

    def more(self, conversations: int) -> None:
        self.conversations += conversations
        self.advance(conversations)


def subject[F: Callable[..., Any]](command: F) -> F:
    """Make the argument and the options that say what is verified, and how patiently."""
    for option in (
        click.option(
            "--patience",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="How long something must look wrong; else a lease and a polling interval.",
        ),
        click.option("--all", "everything", is_flag=True, help="All campaigns."),
        click.argument("campaign", required=False),
    ):
        command = option(command)
    return command


@click.command()
@subject
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print lines of Extended JSON.")
def verify(
    campaign: str | None,
    *,
    everything: bool,
    patience: float | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """
    Prove from the documents that the invariants hold.

    Workers may work meanwhile. What looks wrong is looked at again until whatever was in flight has
    had its time; what is wrong then is printed, a line each: the invariant (I1 to I6, see
    docs/operations.md), what it is about, what was expected and found, and the command to look
    at it. `reactor repair` puts right what can be put right safely.

    Exit codes: 0 everything holds, 1 something does not, 3 no such campaign.

    CAMPAIGN is a campaign's id, the first 4 or more characters of it, its batch request's id, or
    its name where only one has it.
    """
    which([campaign] if campaign else [], everything=everything, narrowed=False)
    _verify(campaign, patience, limit_of(limit, as_json=as_json), as_json=as_json)


@with_session
async def _verify(
    session: Session,
    reference: str | None,
    patience: float | None,
    limit: int | None,
    *,
    as_json: bool,
) -> None:
    count, seen = 0, Progress()
    campaign = await one_of(session, reference)
    with progress("Verifying", await conversations_of(session, campaign)) as seen.advance:
        async for finding in limited(findings(session, campaign, patience, seen), limit):
            count += 1
            click.echo(
                extended_json(document_of(finding), indent=None) if as_json else line_of(finding)
            )
    if not as_json:
        held = f"{count} findings" if count else "everything holds"
        click.echo(f"{seen.campaigns} campaigns, {seen.conversations} conversations: {held}")
    if count:
        raise click.exceptions.Exit(ExitCode.FAILED)


async def one_of(session: Session, reference: str | None) -> CampaignId | None:
    """Find the campaign that is meant; None: all of them. `Failure`: there is none, or several."""
    if reference is None:
        return None
    found = await the_campaign(session.database, reference, {"name": 1, "batch_request_id": 1})
    return CampaignId(found["_id"])


async def conversations_of(session: Session, campaign: CampaignId | None) -> int:
    """Say about how many there are: whoever was rejected has none."""
    match = {"$match": {} if campaign is None else {"_id": campaign}}
    group = {"$group": {"_id": None, "count": {"$sum": "$recipient_count"}}}
    cursor = await session.database["campaigns"].aggregate([match, group])
    groups = await cursor.to_list()
    return int(groups[0]["count"]) if groups else 0


def evidence_of(session: Session) -> Evidence:
    settings = session.settings
    return Evidence(
        database=session.database,
        scale=settings.time_scale(),
        lease_seconds=settings.lease_seconds,
        long_seconds=LONG * (settings.lease_seconds + settings.polling_interval_seconds),
    )


async def findings(
    session: Session, campaign: CampaignId | None, patience: float | None, seen: Progress
) -> AsyncIterator[Finding]:
    """Verify one campaign, or each, and give what does not hold."""
    settings = session.settings
    if patience is None:
        # What was in flight has ended by then, and what was forgotten has been swept up.
        patience = settings.lease_seconds + settings.polling_interval_seconds
    verifier = Verifier(evidence=evidence_of(session), patience_seconds=patience)
    async for some in campaign_ids(session, campaign, {}):
        if not seen.campaigns and await missing_indexes(session.database):
            raise Failure("Indexes are missing: `reactor init-db` makes them.")
        for each in some:
            seen.campaigns += 1
            async for finding in verifier.verify(each, seen.more):
                yield finding


def look_at(finding: Finding) -> str:
    """Give the command that shows what a finding is about."""
    if finding.conversation_id is None:
        return f"reactor status {_argument(finding.campaign_id)}"
    return f"reactor show {_argument(finding.conversation_id)}"


def document_of(finding: Finding) -> Mapping[str, object]:
    """Give a finding as programs read it."""
    return {
        "invariant": finding.invariant.value,
        "campaign_id": finding.campaign_id,
        "conversation_id": finding.conversation_id,
        "message_id": finding.message_id,
        "what": finding.what,
        "expected": finding.expected,
        "found": finding.found,
        "remedy": finding.remedy.value,
        "look_at": look_at(finding),
    }


def line_of(finding: Finding) -> str:
    about = finding.message_id or finding.conversation_id or finding.campaign_id
    said = f"{finding.what}: expected {finding.expected}, found {finding.found}"
    return text(f"{finding.invariant} {about}: {said} ({look_at(finding)})")


def _argument(identity: str) -> str:
    # What begins with a hyphen is no option behind `--`.
    return f"-- {identity}" if identity.startswith("-") else identity
