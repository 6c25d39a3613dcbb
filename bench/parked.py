"""
Conversations that wait: written as the worker would have left them, without its having to work.

Each goes through the handlers that decide it, opened, marked, sent; what follows from its recipient
alone is then put into copies of it, because a million would take the handlers ten minutes.
"""

from datetime import timedelta

from attrs import evolve, frozen
from pymongo import WriteConcern

from bench.world import recipient, request
from handlers.campaign import counted, opened_through
from handlers.conversation import step
from handlers.opening import candidate, open_conversation
from handlers.outcome import on_outcome
from handlers.request import accept
from handlers.scene import Lease, Scene
from reactor.ledger import entry_of
from reactor.store.overview import counts_of
from schemas.address import address_key
from schemas.campaign import Campaign, MessageCounts
from schemas.conversation import ConversationStatus
from schemas.converter import read_batch_request, read_recipient, to_document
from schemas.hand_off import ChannelSpec, Outcome, OutcomeKind
from schemas.ids import bucket, conversation_id, send_key

CHANNELS = {"email": ChannelSpec(name="email", address_kind="email")}
SENT = Outcome(kind=OutcomeKind.SENT)
LEASE = timedelta(seconds=30)
#: Written at once, and copies of one.
CHUNK = 1_000
TOKEN = "bench"
#: Versions that the worker had written: opened, marked, sent.
WRITES = 2


@frozen(kw_only=True)
class Crowd:
    """A campaign that is under way, of which every recipient has got the first message."""

    campaign: Campaign
    template: dict

    def conversation(self, index, sent_at):
        """Make a recipient's conversation and the ledger's entry, through the handlers."""
        campaign = self.campaign
        person = read_recipient(recipient(campaign.batch_request_id, index), "$")
        found = candidate(person, index, campaign.template, CHANNELS)
        lease = Lease(token=TOKEN, until=sent_at + LEASE)
        scene = Scene(now=sent_at, campaign=campaign, channels=CHANNELS, lease=lease)
        marked = step(open_conversation(found, campaign, sent_at), [], None, scene).conversation
        sent = on_outcome(marked, SENT, scene)
        (record,) = sent.effects
        entry = entry_of(marked, record, campaign, CHANNELS)
        document = to_document(sent.conversation)
        return document | {"version": WRITES, "written_by": TOKEN}, to_document(entry)

    def copies(self, indexes, sent_at):
        """Make conversations and entries that differ in their recipients alone."""
        first, entry = self.conversation(indexes[0], sent_at)
        of_request = self.campaign.batch_request_id
        for index in indexes:
            person = {**first["recipient"], **recipient(of_request, index)}
            identity = conversation_id(of_request, person["id"])
            key = address_key("email", person["address"]["email"])
            of_recipient = {
                "_id": identity,
                "recipient": person,
                "position": index,
                "bucket": bucket(identity),
                "address_keys": [key],
            }
            of_message = {
                "_id": send_key(identity, entry["_id"].split("/")[1], 0),
                "conversation_id": identity,
                "recipient_id": person["id"],
                "address": key,
                "to": person["address"]["email"],
            }
            yield first | of_recipient, entry | of_message


def crowd(identity, recipients, template, started_at):
    """Make a campaign with so many recipients that was started then, and opened since."""
    made = request(identity, 1, template)
    read = read_batch_request(made)
    campaign = accept(read, read.template, recipients, CHANNELS, started_at)
    campaign = opened_through(campaign, None, started_at, done=True)
    waiting = {
        "status": ConversationStatus.AWAITING_REPLY.value,
        "stage": campaign.template.stages[0].id,
        "exit_reason": None,
    }
    counts = counts_of([(waiting, recipients)])
    campaign = counted(campaign, counts, MessageCounts(sent=recipients), started_at)
    return Crowd(campaign=campaign, template=made["template"])


async def enter(database, of):
    """Write a campaign that is under way, and its answered request."""
    campaign = of.campaign
    answered = {
        "_id": campaign.batch_request_id,
        "name": campaign.name,
        "type": campaign.type,
        "template": of.template,
        "recipients": [],
        "status": "accepted",
        "campaign_id": campaign.id,
        "decided_at": campaign.created_at,
    }
    await database.batch_requests.insert_one(answered)
    await database.campaigns.insert_one(to_document(evolve(campaign, version=1)))


async def park(database, of, indexes, sent_at):
    """Write conversations of it that got their first message then."""
    await _write(database, list(of.copies(indexes, sent_at)))


async def park_each(database, of, sent):
    """Write conversations, each with its own time of the first message; gives them."""
    pairs = [of.conversation(index, sent_at) for index, sent_at in sent.items()]
    await _write(database, pairs)
    return [document for document, _ in pairs]


async def _write(database, pairs):
    database = database.with_options(write_concern=WriteConcern(1))
    await database.messages.insert_many([entry for _, entry in pairs], ordered=False)
    await database.conversations.insert_many([one for one, _ in pairs], ordered=False)
