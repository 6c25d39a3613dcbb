"""Actions: what a rule does next. The same words everywhere: `advance`, …, `{go_to: stage}`."""

from enum import StrEnum

from attrs import frozen


class ActionKind(StrEnum):
    ADVANCE = "advance"
    COMPLETE = "complete"
    ESCALATE = "escalate"
    GO_TO = "go_to"
    #: The agent's turn: follow-ups stop.
    HOLD = "hold"
    #: As if the reply had not come.
    STAY = "stay"


@frozen
class Action:
    """A document spells it as a word, or `{go_to: stage}`."""

    kind: ActionKind
    #: The stage that `go_to` names, else None.
    stage: str | None = None


ADVANCE = Action(ActionKind.ADVANCE)
COMPLETE = Action(ActionKind.COMPLETE)
ESCALATE = Action(ActionKind.ESCALATE)
HOLD = Action(ActionKind.HOLD)
STAY = Action(ActionKind.STAY)

#: What may stand where; a problem names these words.
ON_REPLY = frozenset(ActionKind)
ON_SILENCE = frozenset(
    {ActionKind.ADVANCE, ActionKind.COMPLETE, ActionKind.ESCALATE, ActionKind.GO_TO}
)
ON_RESOLUTION = frozenset(
    {ActionKind.STAY, ActionKind.ADVANCE, ActionKind.COMPLETE, ActionKind.GO_TO}
)


def go_to(stage: str) -> Action:
    return Action(ActionKind.GO_TO, stage)
