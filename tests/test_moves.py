"""The table of moves: what is in it is made and noted, everything else raises."""

from itertools import product

import pytest

from handlers.moves import MOVES, IllegalMoveError, final_status, moved, noted
from schemas.conversation import (
    FINAL,
    MAX_HISTORY,
    ConversationStatus,
    ExitReason,
    HistoryEntry,
)
from schemas.transition import Reason
from tests.builders import HOUR, NOW, conversation

S = ConversationStatus
LATER = NOW + HOUR
FAILURES = {"failed_permanent", "failed_retries", "template_error", "runaway_guard"}


@pytest.mark.parametrize("reason", Reason)
def test_only_what_is_in_the_table_is_a_move(reason):
    """From every status to every status: a move is noted, anything else raises."""
    for source, target in product(S, S):
        before = conversation(status=source, stage="demo")
        if (source, target) not in MOVES.get(reason, ()):
            with pytest.raises(IllegalMoveError, match=f"{source} -- {reason} -> {target}"):
                moved(before, target, reason, at=LATER, by="u")
            continue
        after = moved(before, target, reason, at=LATER, by="u")
        assert after.status is target
        assert after.status_since == (NOW if source is target else LATER)
        assert after.history == (HistoryEntry(at=LATER, reason=reason, stage="demo", by="u"),)


@pytest.mark.parametrize("reason", MOVES)
def test_nothing_leaves_an_end_but_a_retry(reason):
    """What is completed or cancelled stays so; what has failed is left by a retry only."""
    for source, _ in MOVES[reason]:
        assert source not in FINAL or (source, reason) == (S.FAILED, Reason.RETRIED)


@pytest.mark.parametrize("reason", MOVES)
def test_nothing_happens_under_a_pause_but_its_end(reason):
    """A paused conversation is resumed or ended; what is decided meanwhile is put back under it."""
    for source, _ in MOVES[reason]:
        ends = reason in {Reason.COMPLETED, Reason.FAILED, Reason.CANCELLED, Reason.RESUMED}
        assert source is not S.PAUSED or ends


@pytest.mark.parametrize("reason", ExitReason)
def test_every_exit_reason_has_its_end(reason):
    """Errors fail, orders cancel, everything else completes; from every open status."""
    status, move = final_status(reason)
    if reason in FAILURES:
        assert (status, move) == (S.FAILED, Reason.FAILED)
    elif reason is ExitReason.CANCELLED:
        assert (status, move) == (S.CANCELLED, Reason.CANCELLED)
    else:
        assert (status, move) == (S.COMPLETED, Reason.COMPLETED)
    assert {source for source, _ in MOVES[move]} == set(S) - FINAL


def test_a_note_changes_no_status():
    """What is only noted is in the history, the last entries of it, and nowhere else."""
    before = conversation()
    for n in range(MAX_HISTORY + 1):
        after = noted(before, Reason.OPENED, at=LATER, by=str(n))
        assert after.status is before.status
        assert after.status_since == NOW
        before = after
    assert [entry.by for entry in after.history] == [str(n) for n in range(1, MAX_HISTORY + 1)]
