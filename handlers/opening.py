"""Opening a campaign's conversations: each recipient becomes one, or is rejected with a reason."""

from collections.abc import Collection, Mapping
from datetime import datetime

from attrs import frozen

from handlers.atom import DUE, effective_pause, settled
from handlers.hand_off import recipient_context
from handlers.moves import noted
from handlers.rendering import lacking_variables
from handlers.stages import address_kind, channel_names, message_of, pick_channel
from schemas.address import address_key
from schemas.batch_request import Recipient
from schemas.campaign import Campaign
from schemas.conversation import Conversation, ConversationStatus
from schemas.hand_off import ChannelSpec
from schemas.ids import bucket, conversation_id
from schemas.template import MessageTemplate, Template
from schemas.transition import Reason

SUPPRESSED = "suppressed: the address must not be written to"
DUPLICATE_ID = "$.id: another recipient of this request has the same id"
DUPLICATE_ADDRESS = "$.address: another recipient of this request has the same address"


@frozen(kw_only=True)
class Candidate:
    """A recipient that was read, and where it stood in the request."""

    recipient: Recipient
    position: object
    address_keys: tuple[str, ...]


def candidate(
    recipient: Recipient,
    position: object,
    template: Template,
    channels: Mapping[str, ChannelSpec],
) -> Candidate | tuple[str, ...]:
    """Check a recipient against its template; its problems if it cannot be led through it."""
    problems = [*_missing_addresses(recipient, template, channels)]
    keys = []
    for kind, value in sorted(recipient.address.items()):
        try:
            keys.append(address_key(kind, value))
        except ValueError as error:
            problems.append(f"$.address.{kind}: {error}")
    context = recipient_context(recipient, template)
    lacking = lacking_variables(texts_of(template), context)
    problems.extend(f"$.attributes: the messages need {path}" for path in lacking)
    if recipient.ends_at and recipient.scheduled_at and recipient.ends_at <= recipient.scheduled_at:
        problems.append("$.ends_at: expected a date after scheduled_at")
    if problems:
        return tuple(problems)
    return Candidate(recipient=recipient, position=position, address_keys=tuple(keys))


def is_suppressed(
    recipient: Recipient,
    template: Template,
    channels: Mapping[str, ChannelSpec],
    suppressed: Collection[str],
) -> bool:
    """Say whether an address that a stage would be sent to must not be written to."""
    for stage in template.stages:
        name = pick_channel(channel_names(template, stage, None), recipient, channels)
        if name is None:
            continue
        kind = address_kind(name, channels)
        if address_key(kind, recipient.address[kind]) in suppressed:
            return True
    return False


def open_conversation(found: Candidate, campaign: Campaign, now: datetime) -> Conversation:
    """Make a recipient's conversation: its first stage's message is next."""
    recipient = found.recipient
    identity = conversation_id(campaign.batch_request_id, recipient.id)
    starts = max(now, campaign.started_at, recipient.scheduled_at or now)
    conversation = Conversation(
        id=identity,
        campaign_id=campaign.id,
        batch_request_id=campaign.batch_request_id,
        recipient=recipient,
        position=found.position,
        bucket=bucket(identity),
        address_keys=found.address_keys,
        status=ConversationStatus.PENDING,
        stage=campaign.template.stages[0].id,
        due_at=None,
        wait_until=starts,
        deadline_at=min(campaign.deadline_at, recipient.ends_at or campaign.deadline_at),
        pause_seen=effective_pause(campaign, now),
        created_at=now,
        status_since=now,
    )
    return settled(noted(conversation, Reason.OPENED, at=now, by=DUE))


def texts_of(template: Template) -> tuple[str, ...]:
    """Give every Liquid text of a template."""
    messages = [
        message_of(stage, step)
        for stage in template.stages
        for step in range(len(stage.follow_ups) + 1)
    ]
    return tuple(text for message in messages for text in _texts(message) if text)


def _texts(message: MessageTemplate) -> tuple[str | None, ...]:
    return (message.subject, message.body, message.html, message.from_, message.reply_to)


def _missing_addresses(
    recipient: Recipient, template: Template, channels: Mapping[str, ChannelSpec]
) -> list[str]:
    problems = []
    for stage in template.stages:
        for step in range(len(stage.follow_ups) + 1):
            if step and stage.follow_ups[step - 1].if_missing:
                continue
            names = channel_names(template, stage, step)
            if pick_channel(names, recipient, channels) is None:
                problems.append(
                    f"$.address: stage {stage.id!r} needs an address for {' or '.join(names)}"
                )
    return list(dict.fromkeys(problems))
