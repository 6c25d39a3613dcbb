"""
The one table of all that the worker tells about itself: spans, metrics, keys of log lines.

No id is ever an attribute of a metric; no content, name or address is anywhere.
"""

from collections.abc import Mapping
from typing import Literal

from attrs import frozen
from opentelemetry.trace import SpanKind

type SpanName = Literal["accept", "open", "load", "handle", "apply", "hand_off"]
type MetricKind = Literal["counter", "gauge", "histogram"]


@frozen(kw_only=True)
class SpanDoc:
    """A span: who starts it is in its description, and only these attributes are ever set."""

    kind: SpanKind = SpanKind.INTERNAL
    description: str
    attributes: tuple[str, ...]


@frozen(kw_only=True)
class MetricDoc:
    """A metric; the unit is UCUM, `{…}` counts things."""

    kind: MetricKind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None


SPANS: Mapping[SpanName, SpanDoc] = {
    "accept": SpanDoc(
        kind=SpanKind.CONSUMER,
        description="A batch request is read, checked and answered. Its parent is the request's.",
        attributes=(
            "batch_request_id", "campaign_id", "campaign_type", "status", "recipients", "rejected",
            "error_type",
        ),
    ),
    "open": SpanDoc(
        description="Conversations of a campaign are created, a chunk of them.",
        attributes=("campaign_id", "campaign_type", "conversations", "error_type"),
    ),
    "load": SpanDoc(
        description="A batch of one campaign is read, with all that its decisions need.",
        attributes=("campaign_id", "campaign_type", "conversations", "updates", "error_type"),
    ),
    "handle": SpanDoc(
        description="Decisions about a batch are taken.",
        attributes=("campaign_id", "campaign_type", "conversations", "error_type"),
    ),
    "apply": SpanDoc(
        description="What was decided about a batch is written.",
        attributes=("campaign_id", "campaign_type", "conversations", "won", "error_type"),
    ),
    "hand_off": SpanDoc(
        kind=SpanKind.CLIENT,
        description="A message is given to its channel.",
        attributes=(
            "campaign_id", "campaign_type", "conversation_id", "key", "channel", "attempt",
            "outcome", "error_type",
        ),
    ),
}  # fmt: skip

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
METRICS: Mapping[str, MetricDoc] = {
    "reactor.campaigns.active": MetricDoc(
        kind="gauge",
        unit="{campaign}",
        description="Active campaigns as a worker last saw them: all workers see the same ones.",
        attributes=("campaign_type",),
    ),
    "reactor.conversations.processed": MetricDoc(
        kind="counter",
        unit="{conversation}",
        description="Conversations that were loaded, decided and written.",
        attributes=("campaign_type",),
    ),
    "reactor.conversations.wasted": MetricDoc(
        kind="counter",
        unit="{conversation}",
        description="Decisions that came to nothing: another worker had written first.",
        attributes=("campaign_type",),
    ),
    "reactor.sends": MetricDoc(
        kind="counter",
        unit="{message}",
        description="Hand-offs by what came of them.",
        attributes=("channel", "outcome", "campaign_type"),
    ),
    "reactor.send.duration": MetricDoc(
        kind="histogram",
        unit="s",
        description="How long a channel took for a message.",
        attributes=("channel", "outcome"),
        buckets=SECONDS,
    ),
    "reactor.stage.advancements": MetricDoc(
        kind="counter",
        unit="{conversation}",
        description="Conversations that went to another stage.",
        attributes=("campaign_type", "reason"),
    ),
    "reactor.errors": MetricDoc(
        kind="counter",
        unit="{error}",
        description="Failures, by the class of the error.",
        attributes=("campaign_type", "error_type"),
    ),
    "reactor.alerts": MetricDoc(
        kind="counter",
        unit="{alert}",
        description="Alerts that this worker raised: one for each outage of a channel, or campaign"
        " whose counts do not agree.",
        attributes=("kind", "channel"),
    ),
    "reactor.newer": MetricDoc(
        kind="counter",
        unit="{document}",
        description="Campaigns and conversations of a newer schema version, left for a newer worker.",
    ),
    "reactor.poll.rescued": MetricDoc(
        kind="counter",
        unit="{subject}",
        description="Work that polling found and the change stream should have announced: ought"
        " to stay 0.",
    ),
    "reactor.stream.restarts": MetricDoc(
        kind="counter",
        unit="{restart}",
        description="Change streams opened anew, by the server's error code.",
        attributes=("code",),
    ),
    "reactor.dispatch.lag": MetricDoc(
        kind="histogram",
        unit="s",
        description="From when work was due or inserted to when it was handled.",
        buckets=SECONDS,
    ),
    "reactor.batch.size": MetricDoc(
        kind="histogram",
        unit="{conversation}",
        description="Conversations in a batch.",
        buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    ),
}

#: What a log line may carry beside its message.
LOG_KEYS: Mapping[str, str] = {
    "ts": "when, by the worker's own clock",
    "level": "TRACE, DEBUG, INFO, SUCCESS, WARNING, ERROR, CRITICAL",
    "message": "what happened; the same words for the same event",
    "exception": "type, stack, causes; its text only where it cannot quote a document",
    "trace_id": "of the span it was logged in",
    "span_id": "of the span it was logged in",
    "logger": "the library it comes from",
    "worker_id": "who logs",
    "batch_request_id": "the request",
    "campaign_id": "the campaign",
    "campaign_type": "its type",
    "conversation_id": "the conversation",
    "update_id": "the update",
    "key": "the send key",
    "channel": "its channel",
    "outcome": "what came of a hand-off",
    "body_length": "characters in a message, by the channel `log:`",
    "error_type": "the class of an error",
    "alert": "its kind: a person should look",
    "reason": "what led to it",
    "part": "of the worker, whose heartbeat is late",
    "limit_seconds": "how long such a part may go without progress",
    "conversations": "how many there are, or how many it is about",
    "messages": "how many it is about",
    "inbox": "the collection of a document that somebody else wrote",
    "workers": "how many live",
    "listens": "whether this one listens to a change stream",
    "wasted": "decisions that came to nothing, of so many `conversations`",
    "failures": "how often it has failed, in a row",
    "code": "of the server, why a change stream ended",
    "backoff_seconds": "how long the database is left alone",
    "version": "of reactor",
    "mongodb": "the server's version",
    "database": "its name",
    "channels": "those that are configured",
    "batches": "how many may be in flight",
    "signal": "traces or metrics",
    "exporter": "its name",
}
