"""Builders with defaults: a test names only what matters to it."""

from datetime import UTC, datetime, timedelta

from attrs import evolve

from schemas.action import COMPLETE
from schemas.address import address_key
from schemas.batch_request import BatchRequest, Recipient
from schemas.campaign import Campaign, CampaignStatus
from schemas.conversation import Conversation, ConversationStatus, Reply, Slot, SlotState
from schemas.ids import bucket, campaign_id, conversation_id
from schemas.template import FollowUp, MessageTemplate, ReplyRule, Stage, Template

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
REQUEST = "renewal-2026-12"


def message(**changes):
    """Make a message with a subject, or with whatever is given."""
    return MessageTemplate(**{"subject": "Your plan", "body": "Hello"} | changes)


def follow_up(**changes):
    """Make a follow-up two days after the message before."""
    return FollowUp(**{"after": 2 * DAY, "message": MessageTemplate(body="Still there?")} | changes)


def rule(then=COMPLETE, *intents):
    """Make a rule for these intents, or for every reply."""
    return ReplyRule(then=then, intent=intents)


def stage(identity="intro", **changes):
    """Make a stage with a message alone."""
    return Stage(**{"id": identity, "message": message()} | changes)


def template(**changes):
    """Make a template with one stage and one follow-up, by e-mail."""
    default = {"name": "renewal", "channel": ("email",)}
    return Template(**default | {"stages": (stage(follow_ups=(follow_up(),)),)} | changes)


def recipient(identity="r0", **changes):
    """Make a recipient with an e-mail address of their own."""
    default = {"id": identity, "address": {"email": f"{identity}@example.com"}}
    return Recipient(**default | {"attributes": {"first_name": "Ada"}} | changes)


def template_document(**changes):
    """Make a template as an agent writes it."""
    return {
        "name": "renewal",
        "channel": "email",
        "stages": [
            {
                "id": "intro",
                "message": {"subject": "Your plan", "body": "Hello {{ recipient.first_name }}"},
                "follow_ups": [{"after": "2d", "message": {"body": "Still there?"}}],
                "reply_within": "3d",
            }
        ],
    } | changes


def recipient_document(identity="r0", **changes):
    """Make a recipient as an agent writes them."""
    return {
        "id": identity,
        "address": {"email": f"{identity}@example.com"},
        "attributes": {"first_name": "Ada"},
    } | changes


def batch_request_document(recipients=2, **changes):
    """Make a request as an agent inserts it, with so many recipients, or with these."""
    if isinstance(recipients, int):
        recipients = [recipient_document(f"r{index}") for index in range(recipients)]
    return {
        "_id": REQUEST,
        "schema_version": 1,
        "name": "Renewal, December",
        "type": "renewal",
        "template": template_document(),
        "recipients": recipients,
    } | changes


def update_document(kind="reply", **changes):
    """Make an update of the conversation of recipient r0."""
    return {"_id": f"{kind}-1", "batch_request_id": REQUEST, "recipient_id": "r0"} | (
        {"kind": kind} | changes
    )


def batch_request(**changes):
    """Make a request that was read."""
    default = {"id": REQUEST, "name": "Renewal, December", "type": "renewal"}
    return BatchRequest(
        **default | {"template": template(), "recipients": (recipient_document(),)} | changes
    )


def campaign(**changes):
    """Make an active campaign with one recipient, all opened."""
    made = Campaign(
        id=campaign_id(REQUEST),
        batch_request_id=REQUEST,
        name="Renewal, December",
        type="renewal",
        status=CampaignStatus.ACTIVE,
        template=template(),
        recipients_from="recipients",
        recipient_count=1,
        start_within=DAY,
        created_at=NOW,
        started_at=NOW,
        deadline_at=NOW + 30 * DAY,
        due_at=NOW + 30 * DAY,
        opened=True,
    )
    return evolve(made, **changes)


def conversation(identity="r0", **changes):
    """Make a conversation that is to send its first message now."""
    key = conversation_id(REQUEST, identity)
    made = Conversation(
        id=key,
        campaign_id=campaign_id(REQUEST),
        batch_request_id=REQUEST,
        recipient=recipient(identity),
        position=0,
        bucket=bucket(key),
        address_keys=(address_key("email", f"{identity}@example.com"),),
        status=ConversationStatus.PENDING,
        stage="intro",
        due_at=NOW,
        wait_until=None,
        deadline_at=NOW + 30 * DAY,
        created_at=NOW,
        status_since=NOW,
    )
    return evolve(made, **changes)


def slot(**changes):
    """Make the slot of the stage's own message, reserved now."""
    made = Slot(
        stage="intro",
        n=0,
        step=0,
        channel="email",
        decided_at=NOW,
        due_at=NOW,
        state=SlotState.RESERVED,
        until=NOW,
    )
    return evolve(made, **changes)


def reply(**changes):
    """Make a reply that came now."""
    return evolve(Reply(id="reply-1", at=NOW, text="Yes, please", intent="interested"), **changes)
