"""What an HTTP answer says came of a message."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from attrs import field, frozen

from schemas.hand_off import Outcome, OutcomeKind

#: Whoever asks for more is asked again after this.
MAX_RETRY_AFTER = timedelta(days=1)
MAX_PROVIDER_ID = 500

#: What a status means that does not mean what others of its hundred do.
BY_STATUS: Mapping[int, OutcomeKind] = {
    # About the channel, not about the message: its credentials, or its URL.
    HTTPStatus.UNAUTHORIZED: OutcomeKind.CHANNEL_FAILED,
    HTTPStatus.FORBIDDEN: OutcomeKind.CHANNEL_FAILED,
    HTTPStatus.METHOD_NOT_ALLOWED: OutcomeKind.CHANNEL_FAILED,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: OutcomeKind.CHANNEL_FAILED,
    HTTPStatus.GONE: OutcomeKind.CHANNEL_FAILED,
    # The same message may come again.
    HTTPStatus.REQUEST_TIMEOUT: OutcomeKind.RETRY,
    HTTPStatus.TOO_EARLY: OutcomeKind.RETRY,
    HTTPStatus.TOO_MANY_REQUESTS: OutcomeKind.RATE_LIMITED,
}
BY_HUNDRED: Mapping[int, OutcomeKind] = {
    2: OutcomeKind.SENT,
    # Nobody follows it: it would lead a message, and its signature, to anywhere.
    3: OutcomeKind.CHANNEL_FAILED,
    4: OutcomeKind.REFUSED,
    5: OutcomeKind.RETRY,
}
LATER = frozenset({OutcomeKind.RETRY, OutcomeKind.RATE_LIMITED})


@frozen(kw_only=True)
class Answer:
    status: int
    #: By name in lower case.
    headers: Mapping[str, str] = field(repr=False)
    #: As far as it was read.
    body: bytes = field(default=b"", repr=False)

    def outcome(self, now: datetime) -> Outcome:
        """Say what came of it; `now` is for a receiver that does not tell its own time."""
        kind = BY_STATUS.get(self.status) or BY_HUNDRED.get(self.status // 100)
        if kind is OutcomeKind.SENT:
            return Outcome(kind=kind, provider_id=_provider_id(self.body))
        return Outcome(
            kind=kind or OutcomeKind.UNKNOWN,  # no status that HTTP has
            error=f"HTTP {self.status}",
            retry_after=_retry_after(self.headers, now) if kind in LATER else None,
        )


def _provider_id(body: bytes) -> str | None:
    try:
        answer = json.loads(body)
        found = answer.get("provider_id") if isinstance(answer, dict) else None
        if not isinstance(found, str) or not 0 < len(found) <= MAX_PROVIDER_ID:
            return None
        found.encode()  # half a surrogate pair is valid JSON, but nothing that a document can hold
    except (ValueError, RecursionError):
        return None
    return found


def _retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    text = headers.get("retry-after", "").strip()
    if seconds := re.fullmatch(r"0*([0-9]+)", text):
        # Cut before it is read: a number may be longer than what can be one.
        return min(MAX_RETRY_AFTER, timedelta(seconds=int(seconds[1][:9])))
    at = _date(text)
    if at is None:
        return None
    since = _date(headers.get("date", "")) or now
    return min(MAX_RETRY_AFTER, max(timedelta(), at - since))


def _date(text: str) -> datetime | None:
    """Read a date of HTTP, in any of its three forms."""
    try:
        found = parsedate_to_datetime(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
