"""What `reactor verify` would say of a world in memory."""

from datetime import timedelta

from handlers.verify import Beside, judge
from handlers.verify_campaign import Tally, judge_campaign
from reactor.store.overview import counts_of, message_counts_of
from schemas.campaign import Campaign
from schemas.converter import from_document
from schemas.finding import SeenConversation, SeenEntry
from tests.witness import MemoryDatabase


def verified(floor, document, conversations, messages):
    """Give what it would say of a campaign and its conversations: nothing, ever."""
    campaign, now = from_document(Campaign, document), floor.loop.now()
    # Time passes in which nobody works: that is no lease which nobody takes over.
    spans = (timedelta(seconds=seconds) for seconds in (1, 30, 1e9))
    known = Beside(
        campaign=campaign, now=now, **dict(zip(("skew", "lease", "long"), spans, strict=True))
    )
    found = []
    for each in conversations:
        mine = [one for one in messages if one["conversation_id"] == each["_id"]]
        entries = [from_document(SeenEntry, _seen_entry(one)) for one in mine]
        seen = from_document(SeenConversation, {**each, "id": each["_id"]})
        found += judge(seen, entries, known)
    found += judge_campaign(campaign, _tally(floor, campaign, conversations, messages), now)
    # Whoever closed the last one may have died: the next sweep finds that.
    return [each for each in found if each.found != "nothing is due"]


def _seen_entry(message):
    return message | {"id": message["_id"], "has_body": message["body"] is not None}


def _tally(floor, campaign, conversations, messages):
    """Count as a worker does."""
    rejected = {"batch_request_id": campaign.batch_request_id}
    names = ("status", "stage", "exit_reason")
    return Tally(
        conversations=len(conversations),
        rejected=MemoryDatabase(floor.store).rejected_recipients.count_documents(rejected),
        unsettled=any(one["due_at"] for one in conversations),
        counts=counts_of(({n: one[n] for n in names}, 1) for one in conversations),
        messages=message_counts_of(
            (one, 1) for one in messages if one["campaign_id"] == campaign.id
        ),
    )
