"""Questions about a template: which stage, which message, through which channel."""

from collections.abc import Mapping
from datetime import timedelta

from schemas.batch_request import Recipient
from schemas.conversation import Visit
from schemas.hand_off import ChannelSpec
from schemas.template import MessageTemplate, Stage, Template


def find_stage(template: Template, stage: str) -> Stage | None:
    return template.stages_by_id.get(stage)


def stage_of(template: Template, stage: str) -> Stage:
    """Give a stage that is known to exist: templates are pinned and checked at acceptance."""
    found = find_stage(template, stage)
    if found is None:
        raise LookupError(f"the pinned template has no stage {stage!r}")
    return found


def next_stage(template: Template, stage: str) -> Stage | None:
    """Give the stage after this one, None after the last."""
    at = template.stages.index(stage_of(template, stage))
    return template.stages[at + 1] if at + 1 < len(template.stages) else None


def message_of(stage: Stage, step: int) -> MessageTemplate:
    """Give the stage's own message (step 0) or its step-th follow-up's."""
    return stage.message if step == 0 else stage.follow_ups[step - 1].message


def next_step(stage: Stage, visit: Visit) -> int | None:
    """Give the step of the visit's next message; None: all were sent, or the rest is dropped."""
    if visit.messages == 0:
        return 0
    if visit.follow_ups_dropped or visit.messages > len(stage.follow_ups):
        return None
    return visit.messages


def wait_after(stage: Stage, visit: Visit) -> timedelta:
    """Give how long silence lasts after the visit's last message: to a follow-up, or to `on_no_reply`."""
    step = next_step(stage, visit)
    return stage.reply_within if not step else stage.follow_ups[step - 1].after


def channel_names(template: Template, stage: Stage, step: int | None) -> tuple[str, ...]:
    """Give the channels that a message may take, best first: the follow-up's, the stage's, the template's."""
    own = stage.follow_ups[step - 1].channel if step else ()
    return own or stage.channel or template.channel


def address_kind(channel: str, channels: Mapping[str, ChannelSpec]) -> str:
    """Give the address kind that a channel sends to: its own name unless configured otherwise."""
    spec = channels.get(channel)
    return spec.address_kind if spec else channel


def pick_channel(
    names: tuple[str, ...], recipient: Recipient, channels: Mapping[str, ChannelSpec]
) -> str | None:
    """Give the first channel whose address the recipient has."""
    return next((name for name in names if address_kind(name, channels) in recipient.address), None)
