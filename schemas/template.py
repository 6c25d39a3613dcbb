"""The campaign template: stages, follow-ups, rules, timing, retry policy. Data, versioned, pinned."""

from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property

from attrs import field, frozen

from schemas.action import COMPLETE, ESCALATE, ON_REPLY, ON_SILENCE, Action
from schemas.validators import actions, between, length, longer_than_zero, matching, one_of

NAME = r"[A-Za-z0-9_.\-]{1,64}"
#: The intent of a reply that came without one.
UNCLASSIFIED = "unclassified"

MAX_STAGES = 100
MAX_FOLLOW_UPS = 50
MAX_RULES = 100
#: Characters of one message's text, before rendering.
MAX_TEXT = 100_000
MAX_SUBJECT = 2_000


@frozen(kw_only=True)
class MessageTemplate:
    """Liquid texts of one message."""

    body: str = field(validator=length(1, MAX_TEXT))
    #: None: a follow-up's is "Re: " and its stage's; a stage's message has none.
    subject: str | None = field(default=None, validator=length(0, MAX_SUBJECT))
    html: str | None = field(default=None, validator=length(0, MAX_TEXT))
    #: `from` in documents.
    from_: str | None = field(default=None, validator=length(0, 1_000))
    reply_to: str | None = field(default=None, validator=length(0, 1_000))
    #: Not handed off later than that after it was due. None: no limit.
    ttl: timedelta | None = field(default=None, validator=longer_than_zero)


@frozen(kw_only=True)
class FollowUp:
    """A further message to a recipient who stays silent."""

    #: Counted from when the channel accepted the message before.
    after: timedelta = field(validator=longer_than_zero)
    message: MessageTemplate
    #: Channel names, best first; () means the stage's.
    channel: tuple[str, ...] = ()
    #: `skip`: passed over for a recipient without an address for its channels.
    if_missing: str | None = field(default=None, validator=one_of("skip"))


@frozen(kw_only=True)
class ReplyRule:
    """What a reply leads to; the first rule that matches decides."""

    then: Action = field(validator=actions(ON_REPLY))
    #: () matches every reply. Compared exactly.
    intent: tuple[str, ...] = ()


@frozen(kw_only=True)
class Stage:
    id: str = field(validator=matching(NAME))
    message: MessageTemplate
    follow_ups: tuple[FollowUp, ...] = field(default=(), validator=length(0, MAX_FOLLOW_UPS))
    #: Silence after the last message, until `on_no_reply`.
    reply_within: timedelta = field(default=timedelta(days=7), validator=longer_than_zero)
    on_reply: tuple[ReplyRule, ...] = field(
        default=(ReplyRule(then=COMPLETE),), validator=length(1, MAX_RULES)
    )
    on_no_reply: Action = field(default=COMPLETE, validator=actions(ON_SILENCE))
    #: Its message is sent, then the conversation is completed.
    final: bool = False
    channel: tuple[str, ...] = ()


@frozen(kw_only=True)
class RetryPolicy:
    """Exponential, capped; the n-th retry waits `initial_delay * multiplier**(n-1)`, with jitter."""

    max_attempts: int = field(default=5, validator=between(1, 100))
    initial_delay: timedelta = field(default=timedelta(seconds=30), validator=longer_than_zero)
    multiplier: float = field(default=2.0, validator=between(1, 100))
    max_delay: timedelta = field(default=timedelta(hours=1), validator=longer_than_zero)


@frozen(kw_only=True)
class AgentPolicy:
    """How long `hold` waits for the agent, and what then."""

    deadline: timedelta = field(default=timedelta(days=1), validator=longer_than_zero)
    then: Action = field(default=ESCALATE, validator=actions(ON_SILENCE))


@frozen(kw_only=True)
class EscalationPolicy:
    """An escalation that nobody resolves ends the conversation after `deadline`."""

    deadline: timedelta = field(default=timedelta(days=7), validator=longer_than_zero)


@frozen(kw_only=True)
class Template:
    name: str = field(validator=length(1, 200))
    version: int = field(default=1, validator=between(1))
    #: Channel names, best first; a document may give one as a string.
    channel: tuple[str, ...] = field(validator=length(1))
    #: IANA name, for recipients without one.
    timezone: str = "UTC"
    #: Of the campaign, from `started_at`.
    max_duration: timedelta = field(default=timedelta(days=30), validator=longer_than_zero)
    #: Of a conversation; one more ends it with `runaway_guard`.
    max_messages: int = field(default=20, validator=between(1, 1_000))
    retry: RetryPolicy = RetryPolicy()
    agent: AgentPolicy = AgentPolicy()
    escalation: EscalationPolicy = EscalationPolicy()
    stages: tuple[Stage, ...] = field(validator=length(1, MAX_STAGES))

    @cached_property
    def stages_by_id(self) -> Mapping[str, Stage]:
        """Of two with one id, which is a problem of the template, the first."""
        return {stage.id: stage for stage in reversed(self.stages)}
