"""
The state machine of a conversation, in one table.

Every change of a conversation is spelled as a move: from a status, for a reason, to a status. A move
that is not in the table is our bug and raises. The diagram in docs/state-machine.md is held to this
table by a test.
"""

from collections.abc import Mapping
from datetime import datetime

from schemas.conversation import (
    MAX_HISTORY,
    Conversation,
    ConversationStatus,
    ExitReason,
    HistoryEntry,
)
from schemas.evolving import evolve
from schemas.ids import AgentId
from schemas.transition import Reason

S = ConversationStatus

type Pair = tuple[ConversationStatus, ConversationStatus]

_ACTIVE = (S.PENDING, S.AWAITING_REPLY, S.AWAITING_AGENT, S.ESCALATED)
_NOT_ESCALATED = (S.PENDING, S.AWAITING_REPLY, S.AWAITING_AGENT)
_OPEN = (*_ACTIVE, S.PAUSED)


class IllegalMoveError(Exception):
    """A handler asked for a move that the table does not have."""


def _to(target: ConversationStatus, *sources: ConversationStatus) -> frozenset[Pair]:
    return frozenset((source, target) for source in sources)


def _same(*statuses: ConversationStatus) -> frozenset[Pair]:
    return frozenset((status, status) for status in statuses)


#: Reasons that are not here change no status and leave no history.
MOVES: Mapping[Reason, frozenset[Pair]] = {
    Reason.MESSAGE_SENT: _to(S.AWAITING_REPLY, S.PENDING),
    Reason.FOLLOW_UP_SENT: _same(S.AWAITING_REPLY),
    Reason.FOLLOW_UP_PASSED_OVER: _same(S.AWAITING_REPLY),
    Reason.AGENT_MESSAGE_SENT: _to(S.AWAITING_REPLY, S.PENDING),
    Reason.MESSAGE_TOO_LATE: _to(S.AWAITING_REPLY, S.PENDING, S.AWAITING_REPLY),
    Reason.STAGE_ADVANCED: _to(S.PENDING, *_ACTIVE),
    Reason.WENT_TO_STAGE: _to(S.PENDING, *_ACTIVE),
    Reason.REPLY_HELD: _to(S.AWAITING_AGENT, *_NOT_ESCALATED),
    # A late classification may find that what was held needs no answer.
    Reason.REPLY_STAYED: _same(*_NOT_ESCALATED)
    | {(S.AWAITING_AGENT, S.AWAITING_REPLY), (S.AWAITING_AGENT, S.PENDING)},
    Reason.REPLY_NOTED: _same(S.ESCALATED),
    Reason.SEND_RESERVED: _to(S.PENDING, *_ACTIVE),
    Reason.ESCALATED: _to(S.ESCALATED, *_NOT_ESCALATED),
    Reason.ESCALATION_STAYED: _to(S.PENDING, S.ESCALATED) | _to(S.AWAITING_REPLY, S.ESCALATED),
    Reason.PAUSED: _to(S.PAUSED, *_ACTIVE),
    Reason.RESUMED: frozenset((S.PAUSED, status) for status in _ACTIVE),
    Reason.RETRIED: _to(S.PENDING, S.FAILED) | _to(S.AWAITING_REPLY, S.FAILED),
    Reason.COMPLETED: _to(S.COMPLETED, *_OPEN),
    Reason.FAILED: _to(S.FAILED, *_OPEN),
    Reason.CANCELLED: _to(S.CANCELLED, *_OPEN),
}

_FAILED = frozenset(
    {
        ExitReason.FAILED_PERMANENT,
        ExitReason.FAILED_RETRIES,
        ExitReason.TEMPLATE_ERROR,
        ExitReason.RUNAWAY_GUARD,
    }
)


def moved(
    conversation: Conversation,
    to: ConversationStatus,
    reason: Reason,
    *,
    at: datetime,
    by: AgentId,
) -> Conversation:
    """Make a move and note it in the history, with the stage that the conversation is in."""
    if (conversation.status, to) not in MOVES.get(reason, ()):
        raise IllegalMoveError(f"{conversation.status} -- {reason} -> {to}")
    return evolve(
        conversation,
        history=_noted(conversation, reason, at, by),
        status=to,
        status_since=conversation.status_since if conversation.status == to else at,
    )


def noted(conversation: Conversation, reason: Reason, *, at: datetime, by: AgentId) -> Conversation:
    """Add to the history, which keeps the last MAX_HISTORY entries."""
    return evolve(conversation, history=_noted(conversation, reason, at, by))


def _noted(
    conversation: Conversation, reason: Reason, at: datetime, by: AgentId
) -> tuple[HistoryEntry, ...]:
    entry = HistoryEntry(at=at, reason=reason, stage=conversation.stage, by=by)
    return (*conversation.history, entry)[-MAX_HISTORY:]


def final_status(reason: ExitReason) -> tuple[ConversationStatus, Reason]:
    """Give the status that an exit reason ends in, and the move's reason."""
    if reason in _FAILED:
        return S.FAILED, Reason.FAILED
    if reason is ExitReason.CANCELLED:
        return S.CANCELLED, Reason.CANCELLED
    return S.COMPLETED, Reason.COMPLETED
