"""
Traces and metrics of a worker, and how they leave; what there is of them is in telemetry_table.

Off unless the environment names where to; then every call costs next to nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from threading import Thread
from time import monotonic
from typing import Any

import anyio
import anyio.to_thread
from loguru import logger
from opentelemetry.context import Context
from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    MeterProvider,
    NoOpMeterProvider,
    Observation,
)
from opentelemetry.trace import Link, StatusCode, Tracer, TracerProvider, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import reactor
from reactor.telemetry_table import METRICS, SPANS, SpanDoc, SpanName

#: W3C `traceparent` and `tracestate`, as they stand in a document.
type TraceContext = tuple[str | None, str | None]
#: Adds attributes to a span.
type Note = Callable[..., None]

#: Campaign types come from requests: past so many they are counted together.
MAX_CAMPAIGN_TYPES = 100
OTHER = "other"
#: W3C asks for at least so much to be passed on; it is a stranger's, so no more.
MAX_TRACESTATE = 512
FLUSH_SECONDS = 5.0


_PROPAGATOR = TraceContextTextMapPropagator()


class Telemetry:
    """What the worker tells about itself. Without providers it is off."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        shutdowns: Iterable[Callable[[], object]] = (),
    ) -> None:
        """`shutdowns` send what is left and may block; `close` calls them."""
        self._tracer: Tracer | None = None
        if tracer_provider is not None:
            self._tracer = tracer_provider.get_tracer(reactor.__name__, reactor.__version__)
        self._shutdowns = tuple(shutdowns)
        self._campaign_types: set[str] = set()
        self._active: Mapping[str, int] = {}
        #: Conversations since the start: decided, and decided in vain.
        self.decided = 0
        self.wasted = 0
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._make_instruments(meter_provider or NoOpMeterProvider())

    def _make_instruments(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(reactor.__name__, reactor.__version__)
        for name, doc in METRICS.items():
            match doc.kind:
                case "counter":
                    self._counters[name] = meter.create_counter(name, doc.unit, doc.description)
                case "gauge":
                    meter.create_observable_gauge(
                        name, [self._observe_active], doc.unit, doc.description
                    )
                case "histogram":
                    self._histograms[name] = meter.create_histogram(
                        name,
                        doc.unit,
                        doc.description,
                        explicit_bucket_boundaries_advisory=doc.buckets,
                    )

    @contextmanager
    def span(
        self,
        name: SpanName,
        *,
        parent: TraceContext | None = None,
        link: TraceContext | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> Iterator[Note]:
        """
        Span a block, and give a function that adds attributes by name.

        With `parent` it continues that trace; with `link` it begins one of its own that points
        there; with neither it belongs to the span around it. A malformed context is none.
        """
        if self._tracer is None:
            yield _note_nothing
            return
        doc = SPANS[name]
        context = _extracted(parent) if parent else Context() if link else None
        linked = get_current_span(_extracted(link)).get_span_context() if link else None
        with self._tracer.start_as_current_span(
            name,
            context,
            doc.kind,
            _allowed(doc, attributes or {}),
            [Link(linked)] if linked and linked.is_valid else None,
            record_exception=False,  # its text may quote a document
            set_status_on_exception=False,
        ) as span:

            def note(**more: object) -> None:
                span.set_attributes(_allowed(doc, more))

            try:
                yield note
            except Exception as error:
                span.set_status(StatusCode.ERROR)
                note(error_type=type(error).__name__)
                raise

    def set_active(self, counts: Mapping[str, int]) -> None:
        """Say how many campaigns are active, by campaign type; it replaces what was said before."""
        active: dict[str, int] = {}
        for campaign_type, count in counts.items():
            counted_as = self._counted_as(campaign_type)
            active[counted_as] = active.get(counted_as, 0) + count
        self._active = active

    def processed(self, campaign_type: str, conversations: int) -> None:
        self.decided += conversations
        self._count("reactor.conversations.processed", conversations, campaign_type=campaign_type)

    def lost(self, campaign_type: str, conversations: int) -> None:
        """Count decisions that came too late: somebody else had written meanwhile."""
        self.wasted += conversations
        self._count("reactor.conversations.wasted", conversations, campaign_type=campaign_type)

    def sent(self, campaign_type: str, *, channel: str, outcome: str, seconds: float) -> None:
        """Count a hand-off, whatever came of it."""
        self._count("reactor.sends", channel=channel, outcome=outcome, campaign_type=campaign_type)
        self._histograms["reactor.send.duration"].record(
            seconds, {"channel": channel, "outcome": outcome}
        )

    def advanced(self, campaign_type: str, reason: str, conversations: int = 1) -> None:
        self._count(
            "reactor.stage.advancements", conversations, campaign_type=campaign_type, reason=reason
        )

    def failed(self, campaign_type: str, error_type: str) -> None:
        self._count("reactor.errors", campaign_type=campaign_type, error_type=error_type)

    def newer(self, documents: int) -> None:
        self._count("reactor.newer", documents)

    def alert(self, kind: str, channel: str | None = None) -> None:
        """Count an alert, about a channel or not."""
        if channel is None:
            self._count("reactor.alerts", kind=kind)
        else:
            self._count("reactor.alerts", kind=kind, channel=channel)

    def rescued(self, subjects: int) -> None:
        self._count("reactor.poll.rescued", subjects)

    def stream_restarted(self, code: int | str) -> None:
        self._count("reactor.stream.restarts", code=str(code))

    def lag(self, seconds: float) -> None:
        self._histograms["reactor.dispatch.lag"].record(seconds)

    def batch(self, conversations: int) -> None:
        self._histograms["reactor.batch.size"].record(conversations)

    async def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Send what is left, for at most so long; what is not taken by then is lost."""
        deadline = monotonic() + seconds
        # Daemons: a receiver that hangs must not keep the process from ending.
        threads = [Thread(target=_quietly, args=(s,), daemon=True) for s in self._shutdowns]
        for thread in threads:
            thread.start()
        with anyio.CancelScope(shield=True):
            for thread in threads:
                await anyio.to_thread.run_sync(thread.join, max(0.0, deadline - monotonic()))

    def _count(self, metric: str, amount: int = 1, **attributes: str) -> None:
        if "campaign_type" in attributes:
            attributes["campaign_type"] = self._counted_as(attributes["campaign_type"])
        self._counters[metric].add(amount, attributes)

    def _counted_as(self, campaign_type: str) -> str:
        if campaign_type in self._campaign_types:
            return campaign_type
        if len(self._campaign_types) >= MAX_CAMPAIGN_TYPES:
            return OTHER
        self._campaign_types.add(campaign_type)
        return campaign_type

    def _observe_active(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(n, {"campaign_type": type_}) for type_, n in self._active.items()]


def start_telemetry(environ: Mapping[str, str], worker_id: str) -> Telemetry:
    """
    Give telemetry that leaves by the exporters the environment names, by OpenTelemetry's own rules.

    Whatever is wrong with that is logged, and then there is none: it never stops the work.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry()
    traces, metrics = _exporters(environ, "TRACES"), _exporters(environ, "METRICS")
    if not traces and not metrics:
        return Telemetry()
    try:
        return _started(traces, metrics, worker_id)
    except Exception as error:  # noqa: BLE001 - see above
        logger.opt(exception=error).warning("No telemetry: it cannot be started")
        return Telemetry()


def _started(traces: list[Any], metrics: list[Any], worker_id: str) -> Telemetry:
    # Here, because they are slow to import and seldom wanted.
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import (  # noqa: PLC0415
        MetricReader,
        PeriodicExportingMetricReader,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    ours = {"service.version": reactor.__version__, "service.instance.id": worker_id}
    resource = Resource.create(ours)
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": reactor.__name__}))
    tracer_provider = SdkTracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in traces:
        tracer_provider.add_span_processor(BatchSpanProcessor(exporter))
    readers = [
        exporter if isinstance(exporter, MetricReader) else PeriodicExportingMetricReader(exporter)
        for exporter in metrics
    ]
    meter_provider = SdkMeterProvider(readers, resource, shutdown_on_exit=False)
    return Telemetry(
        tracer_provider if traces else None,
        meter_provider if metrics else None,
        (tracer_provider.shutdown, meter_provider.shutdown),
    )


def _exporters(environ: Mapping[str, str], signal: str) -> list[Any]:
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    implied = "otlp" if any(environ.get(name, "").strip() for name in endpoints) else "none"
    names = environ.get(f"OTEL_{signal}_EXPORTER", "").strip() or implied
    exporters = []
    for name in {name.strip() for name in names.split(",")} - {"", "none"}:
        entry = _otlp(environ, signal) if name == "otlp" else name
        try:
            (found,) = entry_points(group=f"opentelemetry_{signal.lower()}_exporter", name=entry)
            exporters.append(found.load()())
        except Exception as error:  # noqa: BLE001 - whatever it is, the work goes on without
            logger.bind(signal=signal.lower(), exporter=entry).opt(exception=error).warning(
                "No telemetry: its exporter cannot be loaded"
            )
    return exporters


def _otlp(environ: Mapping[str, str], signal: str) -> str:
    of_signal = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "").strip()
    protocol = of_signal or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
    return "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"


def _extracted(context: TraceContext) -> Context:
    traceparent, tracestate = context
    carrier = {"traceparent": traceparent} if traceparent else {}
    if tracestate and len(tracestate) <= MAX_TRACESTATE:
        carrier["tracestate"] = tracestate
    return _PROPAGATOR.extract(carrier, Context())


def _allowed(doc: SpanDoc, attributes: Mapping[str, object]) -> dict[str, str | int | float]:
    return {
        name: value if isinstance(value, (str, int, float)) else str(value)
        for name, value in attributes.items()
        if name in doc.attributes and value is not None
    }


def _note_nothing(**_: object) -> None:
    pass


def _quietly(shutdown: Callable[[], object]) -> None:
    try:
        shutdown()
    except Exception as error:  # noqa: BLE001 - there is nobody left to tell but the log
        logger.opt(exception=error).warning("Telemetry could not send what was left")
