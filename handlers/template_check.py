"""What is wrong with a template beyond its shape: stages, channels, times and texts must agree."""

from collections.abc import Collection, Iterator
from datetime import timedelta

from handlers.rendering import check_template as check_liquid
from schemas.action import Action, ActionKind
from schemas.duration import spell
from schemas.template import MessageTemplate, Stage, Template

_ROOT = "$.template"


def check_template(template: Template, channels: Collection[str]) -> tuple[str, ...]:
    """Name every problem, with its path; `channels` are those that this deployment has."""
    return (
        *_about_channels(template, channels),
        *_about_stages(template),
        *_about_times(template),
        *_about_texts(template),
    )


def _about_channels(template: Template, channels: Collection[str]) -> Iterator[str]:
    if not channels:
        yield f"{_ROOT}.channel: no channel is configured: set CHANNEL_<NAME>"
        return
    configured = ", ".join(sorted(channels))
    for path, names in _channels(template):
        for name in names:
            if name not in channels:
                yield f"{path}: no channel {name!r} is configured; configured: {configured}"


def _channels(template: Template) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield f"{_ROOT}.channel", template.channel
    for path, stage in _stages(template):
        yield f"{path}.channel", stage.channel
        for number, follow_up in enumerate(stage.follow_ups):
            yield f"{path}.follow_ups[{number}].channel", follow_up.channel


def _about_stages(template: Template) -> Iterator[str]:
    seen: set[str] = set()
    for path, stage in _stages(template):
        if stage.id in seen:
            yield f"{path}.id: expected an id of its own, got {stage.id!r} again"
        seen.add(stage.id)
    for path, action in _actions(template):
        if action.stage is not None and action.stage not in seen:
            yield f"{path}.go_to: there is no stage {action.stage!r}"
    reached = _reached(template)
    for index, (path, stage) in enumerate(_stages(template)):
        if index not in reached:
            yield f"{path}: stage {stage.id!r} can never be reached"


def _actions(template: Template) -> Iterator[tuple[str, Action]]:
    yield f"{_ROOT}.agent.then", template.agent.then
    for path, stage in _stages(template):
        yield f"{path}.on_no_reply", stage.on_no_reply
        for number, rule in enumerate(stage.on_reply):
            yield f"{path}.on_reply[{number}].then", rule.then


def _reached(template: Template) -> set[int]:
    """
    Find the stages, by index, that the template leads to.

    Where a human or the agent gets the conversation, it may be sent on to any stage.
    """
    index_of = {stage.id: index for index, stage in reversed(list(enumerate(template.stages)))}
    reached: set[int] = set()
    ahead = [0]
    while ahead:
        index = ahead.pop()
        if index in reached or index >= len(template.stages):
            continue
        reached.add(index)
        for action in _exits(template.stages[index]):
            if action.kind in {ActionKind.ESCALATE, ActionKind.HOLD}:
                return set(range(len(template.stages)))
            if action.kind is ActionKind.ADVANCE:
                ahead.append(index + 1)
            elif action.stage in index_of:
                ahead.append(index_of[action.stage])
    return reached


def _exits(stage: Stage) -> tuple[Action, ...]:
    if stage.final:
        return ()
    return (stage.on_no_reply, *(rule.then for rule in stage.on_reply))


def _about_times(template: Template) -> Iterator[str]:
    for path, stage in _stages(template):
        lasts = sum((follow_up.after for follow_up in stage.follow_ups), timedelta(0))
        if stage.follow_ups and lasts >= template.max_duration:
            yield (
                f"{path}.follow_ups: the last one is due after {spell(lasts)}, when max_duration"
                f" {spell(template.max_duration)} is over"
            )


def _about_texts(template: Template) -> Iterator[str]:
    for path, message in _messages(template):
        texts = {
            "subject": message.subject,
            "body": message.body,
            "html": message.html,
            "from": message.from_,
            "reply_to": message.reply_to,
        }
        for name, text in texts.items():
            for problem in check_liquid(text or ""):
                yield f"{path}.{name}: {problem}"


def _messages(template: Template) -> Iterator[tuple[str, MessageTemplate]]:
    for path, stage in _stages(template):
        yield f"{path}.message", stage.message
        for number, follow_up in enumerate(stage.follow_ups):
            yield f"{path}.follow_ups[{number}].message", follow_up.message


def _stages(template: Template) -> Iterator[tuple[str, Stage]]:
    for index, stage in enumerate(template.stages):
        yield f"{_ROOT}.stages[{index}]", stage
