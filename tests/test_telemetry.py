import json
import os
import socket
import subprocess
import sys
import threading
import time

import anyio
import pytest
from loguru import logger
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_current_span
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from reactor.telemetry import Telemetry, start_telemetry
from reactor.telemetry_table import LOG_KEYS, METRICS, SPANS

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
REQUEST = (f"00-{TRACE}-{SPAN}-01", "vendor=1")
CONTENT = "Dear Ada Lovelace"


class Watched:
    """Telemetry, and what came out of it."""

    def __init__(self):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(tracers, meters)

    def spans(self):
        """Give the spans that ended."""
        return self.exporter.get_finished_spans()

    def metrics(self):
        """Give the metrics by name."""
        found = self.reader.get_metrics_data()
        if found is None:
            return {}
        (resource,) = found.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    def points(self, name):
        """Give the points of a metric: attributes and value."""
        return {
            tuple(sorted(point.attributes.items())): point.value
            for point in self.metrics()[name].data.data_points
        }


@pytest.fixture
def watched():
    """Telemetry with in-memory ends."""
    return Watched()


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch):
    """Whoever runs the tests may have telemetry configured."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def warnings():
    """What is logged meanwhile."""
    seen = []
    sink = logger.add(lambda message: seen.append(message.record["message"]), level="WARNING")
    yield seen
    logger.remove(sink)


def free_port():
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_accept_continues_the_requests_trace(watched):
    """The request's span is the parent of its acceptance."""
    with watched.telemetry.span("accept", parent=REQUEST, attributes={"campaign_id": "c1"}):
        pass
    (span,) = watched.spans()
    assert (span.name, span.kind.name) == ("accept", "CONSUMER")
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == SPAN
    assert span.context.trace_state.get("vendor") == "1"
    assert dict(span.attributes) == {"campaign_id": "c1"}


def test_later_steps_are_traces_of_their_own(watched):
    """A step weeks later points to the request, but does not hang off its trace."""
    with (
        watched.telemetry.span("load", link=REQUEST),
        watched.telemetry.span("handle"),
        watched.telemetry.span("hand_off", link=REQUEST),
    ):
        pass
    hand_off, handle, load = watched.spans()
    assert load.parent is None
    assert f"{load.links[0].context.trace_id:032x}" == TRACE
    assert load.context.trace_id != load.links[0].context.trace_id
    assert handle.parent.span_id == load.context.span_id
    assert not handle.links
    assert hand_off.parent is None
    assert hand_off.context.trace_id != load.context.trace_id


@pytest.mark.parametrize(
    "traceparent",
    [None, "", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-01"],
)
def test_malformed_context(watched, traceparent):
    """A context that is none makes a trace of its own, without link, and hurts nobody."""
    with watched.telemetry.span("accept", parent=(traceparent, "=,=")):
        pass
    with watched.telemetry.span("load", link=(traceparent, None)):
        pass
    assert [(span.parent, len(span.links)) for span in watched.spans()] == [(None, 0)] * 2


def test_tracestate_is_capped(watched):
    """A stranger's tracestate is not carried on without end."""
    with watched.telemetry.span("accept", parent=(REQUEST[0], "a=" + "x" * 600)):
        pass
    (span,) = watched.spans()
    assert f"{span.context.trace_id:032x}" == TRACE
    assert not span.context.trace_state


def test_error_is_named_and_not_quoted(watched):
    """A span that failed has the class of the error; no event holds its text."""
    with (
        pytest.raises(ValueError, match=CONTENT),
        watched.telemetry.span("apply", link=REQUEST),
    ):
        raise ValueError(CONTENT)
    (span,) = watched.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes) == {"error_type": "ValueError"}
    assert not span.events
    assert CONTENT not in span.to_json()


def test_only_known_attributes(watched):
    """What the table does not name is never set, whoever passes it; None is no value."""
    attributes = {"channel": "email", "to": "ada@example.com", "attempt": None}
    with watched.telemetry.span("hand_off", attributes=attributes) as note:
        note(outcome="sent", body=CONTENT, campaign_id=7)
    (span,) = watched.spans()
    assert dict(span.attributes) == {"channel": "email", "outcome": "sent", "campaign_id": 7}


def test_every_metric(watched):
    """Each metric of the table is fed, with its unit and no other attributes than it names."""
    telemetry = watched.telemetry
    telemetry.set_active({"renewal": 2, "welcome": 1})
    telemetry.processed("renewal", 40)
    telemetry.lost("renewal", 3)
    telemetry.sent("renewal", channel="email", outcome="sent", seconds=0.02)
    telemetry.advanced("renewal", "replied")
    telemetry.advanced("renewal", "replied", 2)
    telemetry.failed("renewal", "StoreUnavailableError")
    telemetry.rescued(3)
    telemetry.newer(2)
    telemetry.alert("circuit_opened", "email")
    telemetry.stream_restarted(136)
    telemetry.lag(0.5)
    telemetry.batch(40)
    metrics = watched.metrics()
    assert set(metrics) == set(METRICS)
    for name, doc in METRICS.items():
        assert (metrics[name].unit, metrics[name].description) == (doc.unit, doc.description)
        for point in metrics[name].data.data_points:
            assert set(point.attributes) == set(doc.attributes)
    assert watched.points("reactor.stage.advancements") == {
        (("campaign_type", "renewal"), ("reason", "replied")): 3
    }
    assert watched.points("reactor.sends") == {
        (("campaign_type", "renewal"), ("channel", "email"), ("outcome", "sent")): 1
    }
    (size,) = metrics["reactor.batch.size"].data.data_points
    assert size.explicit_bounds == METRICS["reactor.batch.size"].buckets


def test_active_campaigns_are_replaced(watched):
    """A campaign type without active campaigns is no longer reported."""
    watched.telemetry.set_active({"renewal": 2, "welcome": 1})
    assert len(watched.points("reactor.campaigns.active")) == 2
    watched.telemetry.set_active({"welcome": 4})
    assert watched.points("reactor.campaigns.active") == {(("campaign_type", "welcome"),): 4}


def test_campaign_types_are_bounded(watched):
    """However many campaign types there are, past a hundred they are one series."""
    for n in range(150):
        watched.telemetry.processed(f"type-{n}", 1)
    watched.telemetry.processed("type-3", 1)
    points = watched.points("reactor.conversations.processed")
    assert len(points) == 101
    assert points[("campaign_type", "other"),] == 50
    assert points[("campaign_type", "type-3"),] == 2
    watched.telemetry.set_active({f"type-{n}": 1 for n in range(300)})
    assert watched.points("reactor.campaigns.active")[("campaign_type", "other"),] == 200


def test_no_ids_in_metrics():
    """No metric has an attribute that grows with the work."""
    attributes = {name for doc in METRICS.values() for name in doc.attributes}
    assert not {name for name in attributes if name.endswith("id") or name in {"key", "to"}}
    assert not {"to", "body", "subject", "recipient_id"} & set(LOG_KEYS)
    for doc in SPANS.values():
        assert not {"to", "body", "subject", "recipient_id"} & set(doc.attributes)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "True"},
    ],
)
async def test_off(environ, warnings):
    """Without a place to send to nothing is started, and every call does nothing."""
    threads = threading.active_count()
    telemetry = start_telemetry(environ, "w1")
    with telemetry.span("load", link=REQUEST, attributes={"campaign_id": "c1"}) as note:
        note(conversations=3)
        assert not get_current_span().get_span_context().is_valid
    telemetry.set_active({"renewal": 1})
    telemetry.sent("renewal", channel="email", outcome="sent", seconds=0.1)
    await telemetry.close()
    assert threading.active_count() == threads
    assert not warnings


def test_off_is_cheap():
    """A span that goes nowhere costs microseconds."""
    telemetry = Telemetry()
    began = time.perf_counter()
    for _ in range(10_000):
        with telemetry.span("hand_off", link=REQUEST, attributes={"key": "k"}):
            telemetry.sent("renewal", channel="email", outcome="sent", seconds=0.1)
    assert time.perf_counter() - began < 10


async def test_real_receiver(monkeypatch):
    """Spans and metrics reach a receiver over OTLP by the time telemetry is closed."""
    port = free_port()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    receiver_settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
    async with OtelTapHttpProtobufReceiver(receiver_settings) as receiver:
        received = []

        async def receive(one):
            received.append(await one(lambda _: True, 20))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive, receiver.await_trace)
            tasks.start_soon(receive, receiver.await_metric)
            telemetry = start_telemetry(os.environ, "w1")
            with telemetry.span("accept", parent=REQUEST, attributes={"campaign_id": "c1"}):
                telemetry.processed("renewal", 7)
            await telemetry.close(10)
    (span,) = [one for one in received if isinstance(one, Span)]
    (metric,) = [one for one in received if isinstance(one, Metric)]
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("accept", TRACE, SPAN)
    assert metric.name == "reactor.conversations.processed"
    assert metric.sum.data_points[0].as_int == 7


PRINTED = """
import os, anyio
from reactor.telemetry import start_telemetry
telemetry = start_telemetry(os.environ, "w1")
with telemetry.span("open", attributes={"campaign_id": "c1"}):
    pass
anyio.run(telemetry.close)
"""


@pytest.mark.parametrize(
    ("environ", "service"),
    [
        ({}, "reactor"),
        ({"OTEL_SERVICE_NAME": "ours"}, "ours"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs"}, "theirs"),
    ],
)
def test_resource(environ, service):
    """What leaves says which worker of which service it is from; the deployment may name it."""
    done = subprocess.run(
        [sys.executable, "-c", PRINTED],
        env={**os.environ, **environ, "OTEL_TRACES_EXPORTER": "console"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    resource = json.loads(done.stdout)["resource"]["attributes"]
    assert resource["service.name"] == service
    assert resource["service.instance.id"] == "w1"


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "carrier-pigeon"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
async def test_unknown_exporter(environ, warnings):
    """An exporter that is not installed is told of, and the worker starts without."""
    telemetry = start_telemetry(environ, "w1")
    with telemetry.span("load"):
        pass
    await telemetry.close()
    assert warnings == ["No telemetry: its exporter cannot be loaded"]


async def test_wrong_configuration(monkeypatch, warnings):
    """A value that the SDK cannot read costs telemetry, not the worker."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-5")
    telemetry = start_telemetry(os.environ, "w1")
    with telemetry.span("load"):
        pass
    await telemetry.close()
    assert warnings == ["No telemetry: it cannot be started"]


async def test_close_never_fails(warnings):
    """A shutdown that fails is logged, and the others still happen."""
    done = []

    def fail():
        raise RuntimeError(CONTENT)

    await Telemetry(shutdowns=[fail, lambda: done.append("second")]).close()
    assert done == ["second"]
    assert warnings == ["Telemetry could not send what was left"]


@pytest.mark.parametrize("listening", [False, True], ids=["absent", "silent"])
async def test_broken_collector(monkeypatch, listening):
    """A collector that is gone, or takes a connection and never answers, delays nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        began = time.monotonic()
        telemetry = start_telemetry(os.environ, "w1")
        for _ in range(3000):
            with telemetry.span("hand_off", link=REQUEST):
                telemetry.sent("renewal", channel="email", outcome="sent", seconds=0.1)
        worked = time.monotonic()
        await telemetry.close(0.3)
        assert worked - began < 10
        assert time.monotonic() - worked < 5


def test_process_ends_beside_a_silent_collector():
    """A worker that is done ends, although its last spans are still on their way."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", PRINTED.replace("telemetry.close", "telemetry.close, 0.2")],
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
            check=True,
            timeout=60,
        )
        assert time.monotonic() - began < 9
