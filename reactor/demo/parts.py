"""Who says what, and when: the parts that the demo's recipients, the agent and a human play."""

from collections.abc import Mapping

from attrs import frozen

from schemas.ids import stable_fraction

#: Everybody's chances follow from this and from who they are: each demo goes the same way.
SEED = "demo-1"


@frozen(kw_only=True)
class Turn:
    """What a recipient does about one message."""

    stage: str
    #: 0 is the stage's own message; follow-ups and what the agent wrote count on.
    number: int = 0
    #: After so many hours, from and to.
    hours: tuple[float, float]
    kind: str = "reply"
    intent: str | None = None
    #: One of these.
    texts: tuple[str, ...] = ()


@frozen(kw_only=True)
class Part:
    """What a recipient does about all of them; to what is not here, nothing."""

    name: str
    #: Of the recipients, beside the first, among whom each part is played once.
    share: int = 0
    turns: tuple[Turn, ...] = ()


YES = ("Yes, please.", "Go on, send it.", "Interested!", "An offer would be nice.")
NO = ("No, thank you.", "Please just let it go on.", "Not this year.", "We are moving away.")
DEAL = ("Accepted.", "Accepted, thanks for the quick answer.", "All right, accepted!")
AWAY = ("I am out of the office until Monday.", "On leave, back next week.")
COMPLAINT = ("Your last invoice was wrong, twice!", "Nobody answers my ticket.")
#: Replies that come without an intent, and what the agent does when it has read them.
WHO = "Who are you, and how did you get my address?"
RATHER = "hm, what would that be for my people?"
QUESTION = "Does that include the API?"
SPLIT = "Can we pay in two parts?"
AGENT: Mapping[str, Mapping[str, object]] = {
    WHO: {"kind": "reply", "intent": "wrong_person"},
    RATHER: {"kind": "reply", "intent": "interested"},
    QUESTION: {"kind": "send", "message": {"body": "It does, with 10,000 calls a day. An offer?"}},
    SPLIT: {"kind": "send", "message": {"body": "Of course: in January and in July."}},
}
#: What a human decides about an escalation, by the stage in which it came up.
HUMAN: Mapping[str, tuple[object, ...]] = {
    "intro": ({"go_to": "offer"}, "complete"),
    "offer": ("advance", "complete", "complete"),
}
AGENT_HOURS = (2.0, 20.0)
HUMAN_HOURS = (8.0, 44.0)
#: Messages that a provider reports as delivered.
DELIVERED_SHARE = 0.9

_KEEN = Turn(stage="intro", hours=(3, 50), intent="interested", texts=YES)
_NUDGED = Turn(stage="intro", number=1, hours=(2, 60), intent="interested", texts=YES)
_ACCEPTS = Turn(stage="offer", hours=(5, 70), intent="accepted", texts=DEAL)
_ACCEPTS_LATE = Turn(stage="offer", number=1, hours=(3, 60), intent="accepted", texts=DEAL)
_COMPLAINS = Turn(stage="intro", hours=(4, 40), intent="complaint", texts=COMPLAINT)
FORGOTTEN = "forgotten"

PARTS: tuple[Part, ...] = (
    Part(name="keen", share=10, turns=(_KEEN, _ACCEPTS)),
    Part(name="silent", share=38),
    Part(
        name="declines",
        share=10,
        turns=(
            Turn(stage="intro", hours=(3, 70), intent="not_interested", texts=NO),
            Turn(stage="intro", number=1, hours=(3, 70), intent="not_interested", texts=NO),
        ),
    ),
    Part(
        name="asks",
        share=7,
        turns=(
            Turn(stage="intro", hours=(3, 60), texts=(QUESTION,)),
            Turn(stage="intro", number=1, hours=(3, 40), intent="interested", texts=YES),
            Turn(stage="offer", hours=(5, 40), texts=(SPLIT,)),
            _ACCEPTS_LATE,
        ),
    ),
    Part(
        name="opts out",
        share=4,
        turns=(Turn(stage="intro", number=1, hours=(1, 12), kind="opted_out"),),
    ),
    Part(name="complains", share=5, turns=(_COMPLAINS, _ACCEPTS)),
    Part(name="bounces", turns=(Turn(stage="intro", hours=(0.1, 2), kind="bounced"),)),
    Part(
        name="renewed by phone",
        turns=(Turn(stage="intro", hours=(60, 80), kind="goal_reached"),),
    ),
    Part(name=FORGOTTEN, turns=(_NUDGED,)),
    Part(
        name="away",
        share=7,
        turns=(
            Turn(stage="intro", hours=(0.2, 1), intent="out_of_office", texts=AWAY),
            Turn(stage="intro", number=2, hours=(5, 60), intent="interested", texts=YES),
            _ACCEPTS,
        ),
    ),
    Part(name="nudged", share=9, turns=(_NUDGED, _ACCEPTS_LATE)),
    Part(name="stranger", share=5, turns=(Turn(stage="intro", hours=(2, 40), texts=(WHO,)),)),
    Part(
        name="thinks aloud",
        share=6,
        turns=(Turn(stage="intro", number=1, hours=(3, 40), texts=(RATHER,)), _ACCEPTS),
    ),
    Part(name="loses interest", share=6, turns=(_KEEN,)),
)


def part_of(place: int, recipient: str) -> Part:
    """Give the part of a recipient by the place in the request: first each once, then by shares."""
    if place < len(PARTS):
        return PARTS[place]
    at = chance(recipient, "part") * sum(part.share for part in PARTS)
    for part in PARTS:
        at -= part.share
        if at < 0:
            return part
    return PARTS[0]


def chance(recipient: str, about: str) -> float:
    """Give a number in [0, 1): the same for the same recipient and occasion in each demo."""
    return stable_fraction(f"{SEED}/{recipient}/{about}")


def pick[T](choices: tuple[T, ...], recipient: str, about: str) -> T:
    return choices[int(chance(recipient, about) * len(choices))]


def between(hours: tuple[float, float], recipient: str, about: str) -> float:
    """Give a number of hours between two."""
    low, high = hours
    return low + (high - low) * chance(recipient, about)
