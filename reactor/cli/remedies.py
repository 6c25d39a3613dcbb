"""
Putting right what can be put right safely: derived again from what a document itself says.

Every write is guarded by the version of what was read: whoever is faster wins, and all is looked at
again. Nothing here reserves, sends, cancels or forgets a message.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping

from attrs import frozen

from handlers.atom import settled
from handlers.campaign import counted, reopened
from handlers.campaign import settled as settled_campaign
from handlers.verify_campaign import true_counts
from reactor.cli.evidence import Evidence
from reactor.cli.session import Session
from reactor.store.mongo import MongoStore
from reactor.store.places import rejected_id
from reactor.store.protocol import Change
from schemas.campaign import Campaign, CampaignStatus
from schemas.conversation import Conversation
from schemas.evolving import evolve
from schemas.finding import Finding, Invariant, Remedy

S = CampaignStatus
#: What a person can do where nothing is safe.
ADVICE: Mapping[Invariant, str] = {
    Invariant.ACCOUNTING: "compare the request with conversations and rejected_recipients; "
    "`reactor cancel` ends a conversation that is open after its campaign",
    Invariant.KEYS: "ask the provider by the send key whether the message left",
    Invariant.LIVENESS: "see that a worker runs, `reactor health`, and read its log",
    Invariant.ORDER: "look for the send keys in the workers' logs",
    Invariant.LAST_LOOK: "look for the send key in the workers' logs, and for who suppressed when",
    Invariant.OUTCOME: "ask the provider by the send key what came of it",
    Invariant.BOUNDED: "see who wrote message_count, and end the conversation: `reactor cancel`",
}


@frozen(kw_only=True)
class Hands:
    """What repairs are done with."""

    session: Session
    store: MongoStore
    evidence: Evidence


async def put_right(hands: Hands, finding: Finding) -> None:
    """Try it once; whether it helped is seen when it is looked at again."""
    _, campaign = await hands.store.campaign(finding.campaign_id)
    remedy = _REMEDIES.get(finding.remedy)
    # After the campaign was read: its version changes when its removal begins.
    leaves = await hands.evidence.is_leaving(finding.campaign_id)
    if remedy and isinstance(campaign, Campaign) and not leaves:
        await remedy(hands, finding, campaign)


async def _conversations(hands: Hands, finding: Finding) -> tuple[Conversation, ...]:
    """Read the conversation that it is about; none, if it cannot be read."""
    whose = [finding.conversation_id] if finding.conversation_id else []
    return await hands.store.conversations(whose)


async def _due_time(hands: Hands, finding: Finding, campaign: Campaign) -> None:
    """Derive a conversation's due time again, from its slot, its pause and its wait."""
    for one in await _conversations(hands, finding):
        mended, ended = settled(one), campaign.completed_at is not None
        if ended and mended.due_at and (one.is_open or campaign.status is not S.COMPLETED):
            # To go on after the end is a person's decision.
            return
        if mended.due_at and (one.due_at is None or ended):
            # As the walk does: the campaign must not end meanwhile.
            now = await hands.store.now()
            until = now + hands.evidence.scale.campaign_span(2 * hands.evidence.lease_seconds)
            if await hands.store.write_campaign(campaign, reopened(campaign, now, until)) is None:
                return
        if mended != one:
            change = Change(before=one, after=mended)
            await hands.store.apply([change], token=secrets.token_hex(8))


async def _campaign_due_time(hands: Hands, _: Finding, campaign: Campaign) -> None:
    now = await hands.store.now()
    await hands.store.write_campaign(campaign, settled_campaign(campaign, now))


async def _counts(hands: Hands, _: Finding, campaign: Campaign) -> None:
    """Count again. Nobody writes to a completed campaign without moving its version first."""
    now = await hands.store.now()
    tally = await hands.evidence.tally(campaign)
    after = counted(campaign, tally.counts, tally.messages, now)
    after = evolve(after, counts=true_counts(campaign, tally))
    await hands.store.write_campaign(campaign, after)


async def _rejection(hands: Hands, finding: Finding, campaign: Campaign) -> None:
    """Take a recipient off the rejected ones: what was sent to them was sent."""
    for one in await _conversations(hands, finding):
        identity = rejected_id(one.batch_request_id, one.position)
        await hands.session.inbox("rejected_recipients").delete_one({"_id": identity})
    await _counts(hands, finding, campaign)


_REMEDIES: Mapping[Remedy, Callable[[Hands, Finding, Campaign], Awaitable[None]]] = {
    Remedy.DUE_TIME: _due_time,
    Remedy.CAMPAIGN_DUE_TIME: _campaign_due_time,
    Remedy.COUNTS: _counts,
    Remedy.REJECTION: _rejection,
}
