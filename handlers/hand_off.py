"""What a slot is rendered to. Purely: whoever takes a message over renders the same bytes."""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property

from attrs import frozen

from handlers.liquid_environment import Escape
from handlers.rendering import Shown, render, render_header, shown
from handlers.stages import address_kind, message_of, stage_of
from schemas.address import normalise
from schemas.batch_request import Recipient
from schemas.campaign import Campaign
from schemas.conversation import Conversation, Reply, Slot
from schemas.hand_off import ChannelSpec, HandOff
from schemas.template import Template


def recipient_context(recipient: Recipient, template: Template) -> dict[str, object]:
    """Give what `recipient` is in a text: built-ins, then attributes, which win."""
    return {
        "id": recipient.id,
        "locale": recipient.locale or "",
        "timezone": recipient.timezone or template.timezone,
        **recipient.attributes,
    }


def hand_off_of(
    conversation: Conversation,
    slot: Slot,
    campaign: Campaign,
    channels: Mapping[str, ChannelSpec],
) -> HandOff:
    """
    Render a slot.

    Raises `RenderError` (handlers.rendering) where a text cannot be rendered.
    """
    recipient = conversation.recipient
    texts = _written(slot, _Renderer(conversation, campaign))
    kind = address_kind(slot.channel, channels)
    before = slot.in_reply_to
    return HandOff(
        key=slot.key(conversation.id),
        campaign_id=campaign.id,
        conversation_id=conversation.id,
        recipient_id=recipient.id,
        channel=slot.channel,
        to=normalise(kind, recipient.address[kind]),
        subject=texts.subject,
        body=texts.body,
        html=texts.html,
        from_=texts.from_,
        reply_to=texts.reply_to,
        locale=recipient.locale,
        in_reply_to=before.key(conversation.id) if before else None,
        send_before=slot.send_before,
        at=slot.decided_at,
        by=slot.by,
    )


@frozen(kw_only=True)
class _Texts:
    subject: str | None
    body: str
    html: str | None
    from_: str | None
    reply_to: str | None


class _Renderer:
    """Renders the texts of one conversation's messages."""

    def __init__(self, conversation: Conversation, campaign: Campaign) -> None:
        self.recipient, self.campaign = conversation.recipient, campaign
        self.template = campaign.template

    @cached_property
    def _shown(self) -> Shown:
        of_campaign = {
            "name": self.campaign.name,
            "type": self.campaign.type,
            "metadata": self.campaign.metadata,
        }
        recipient = recipient_context(self.recipient, self.template)
        zone = self.recipient.timezone or self.template.timezone
        return shown({"recipient": recipient, "campaign": of_campaign}, zone)

    def _context(self, stage: str, reply: Reply | None) -> Shown:
        said = {"text": reply.text if reply else "", "intent": reply.intent if reply else ""}
        values = {**self._shown.values, "stage": {"id": stage}, "reply": said}
        return Shown(values=values, zone=self._shown.zone)

    def header(self, source: str, slot: Slot, reply: Reply | None, now: datetime) -> str:
        return render_header(source, self._context(slot.stage, reply), now=now)

    def text(self, source: str, slot: Slot, escape: Escape) -> str:
        context = self._context(slot.stage, slot.reply)
        return render(source, context, now=slot.decided_at, escape=escape)


def _written(slot: Slot, renderer: _Renderer) -> _Texts:
    """Give the rendered texts of a slot: of the template, or as the agent wrote them."""
    stage = stage_of(renderer.template, slot.stage)
    template = message_of(stage, slot.step or 0)

    def header(source: str | None) -> str | None:
        return source and renderer.header(source, slot, slot.reply, slot.decided_at)

    if slot.text:
        body, html, subject = slot.text.body, slot.text.html, slot.text.subject
    else:
        body = renderer.text(template.body, slot, Escape.PLAIN)
        html = template.html and renderer.text(template.html, slot, Escape.HTML)
        subject = header(template.subject)
    if not subject and slot.step != 0 and stage.message.subject and slot.thread:
        # In the thread of the stage's own message, whose subject is rendered as it was then.
        thread = slot.thread
        own = renderer.header(stage.message.subject, slot, thread.reply, thread.decided_at)
        subject = f"Re: {own}"
    return _Texts(
        subject=subject,
        body=body,
        html=html,
        from_=header(template.from_ or stage.message.from_),
        reply_to=header(template.reply_to or stage.message.reply_to),
    )
