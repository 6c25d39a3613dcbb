"""What is said about campaigns as a whole, the same in both stores."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from bson.datetime_ms import DatetimeMS

from reactor.store.protocol import Due
from schemas.campaign import CampaignStatus, Counts, MessageCounts
from schemas.conversation import FINAL
from schemas.converter import from_document
from schemas.message import ACCEPTED, MessageStatus

#: A combination of fields, and how many documents have it.
type Groups = Iterable[tuple[Mapping[str, Any], int]]

#: Stand for dates that Python does not have.
_BEFORE_ALL = datetime(1, 1, 1, tzinfo=UTC)
_AFTER_ALL = datetime(9999, 12, 31, tzinfo=UTC)


def due_of(
    campaign: Mapping[str, Any], conversations_due_at: object, *, queued: bool = False
) -> Due:
    """
    Read a campaign. InvalidDocumentError: it cannot be read.

    Before all are opened its conversations are not worked on: their time is none of its.
    """
    waits = campaign.get("status") == CampaignStatus.SCHEDULED or not campaign.get("opened")
    known = {
        "campaign_id": campaign["_id"],
        "conversations_due_at": None if waits else date_of(conversations_due_at),
        "queued": queued,
    }
    return from_document(Due, {**campaign, **known})


def date_of(value: object) -> datetime | None:
    """Give a date as Python can hold it; None for whatever is no date."""
    if isinstance(value, DatetimeMS):
        return _BEFORE_ALL if int(value) < 0 else _AFTER_ALL
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def counts_of(groups: Groups) -> Counts:
    """Add up conversations by `{status, stage, exit_reason}`."""
    by_status: Counter[str] = Counter()
    by_stage: Counter[str] = Counter()
    by_exit_reason: Counter[str] = Counter()
    for group, count in groups:
        by_status[str(group.get("status"))] += count
        by_stage[str(group.get("stage"))] += count
        if group.get("exit_reason") is not None:
            by_exit_reason[str(group["exit_reason"])] += count
    return Counts(
        open=sum(count for status, count in by_status.items() if status not in FINAL),
        by_status=dict(sorted(by_status.items())),
        by_stage=dict(sorted(by_stage.items())),
        by_exit_reason=dict(sorted(by_exit_reason.items())),
    )


def message_counts_of(groups: Groups) -> MessageCounts:
    """Add up messages by `{status}`; what was reported on was sent."""
    by_status: Counter[str] = Counter()
    for group, count in groups:
        by_status[str(group.get("status"))] += count
    return MessageCounts(
        sent=sum(by_status[status] for status in ACCEPTED),
        failed=by_status[MessageStatus.FAILED],
        unknown=by_status[MessageStatus.UNKNOWN],
        cancelled=by_status[MessageStatus.CANCELLED],
    )
