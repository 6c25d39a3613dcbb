"""What a running worker tells an OpenTelemetry collector: a real receiver stands in for it."""

import anyio
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from tests.builders import batch_request_document, template_document
from tests.live import live

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
TEMPLATE = template_document(
    stages=[
        {
            "id": "intro",
            "message": {"body": "Dear {{ recipient.first_name }}"},
            "on_reply": [{"then": "advance"}],
        },
        {"id": "thanks", "final": True, "message": {"body": "Thanks"}},
    ]
)
METRICS = {
    "reactor.campaigns.active",
    "reactor.conversations.processed",
    "reactor.sends",
    "reactor.stage.advancements",
    "reactor.errors",
}


async def test_spans_and_metrics_of_a_campaign(
    mongodb_uri, mongodb_client, database_name, tmp_path, monkeypatch, free_tcp_port
):
    """A span per step, joined to the request's trace; the mission's metrics by campaign type."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_tcp_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    settings = OtelTapHttpProtobufReceiverSettings(http_port=free_tcp_port)
    async with OtelTapHttpProtobufReceiver(settings) as receiver:
        spans, metrics = {}, {}

        async def span(name):
            spans[name] = await receiver.await_trace(lambda one: one.name == name, 20)

        async def metric(name):
            metrics[name] = await receiver.await_metric(lambda one: one.name == name, 20)

        async with anyio.create_task_group() as tasks:
            for name in ("accept", "open", "load", "handle", "apply", "hand_off"):
                tasks.start_soon(span, name)
            for name in METRICS:
                tasks.start_soon(metric, name)
            async with live(
                mongodb_uri,
                mongodb_client,
                database_name,
                tmp_path,
                POLLING_INTERVAL_SECONDS="0.5",
            ) as world:
                await campaign(world)
                await world.until(lambda: len(spans) + len(metrics) == 6 + len(METRICS))
    accept = spans["accept"]
    assert (accept.trace_id.hex(), accept.parent_span_id.hex()) == (TRACE, SPAN)
    for name in ("load", "handle", "apply", "hand_off"):
        span_of = spans[name]
        joined = span_of.trace_id.hex() == TRACE
        linked = [link.trace_id.hex() for link in span_of.links]
        assert joined or linked == [TRACE], name
    for name, found in metrics.items():
        data = found.gauge if name == "reactor.campaigns.active" else found.sum
        types = {
            attribute.value.string_value
            for point in data.data_points
            for attribute in point.attributes
            if attribute.key == "campaign_type"
        }
        assert types == {"renewal"}, name
    told = "".join(str(one) for one in (*spans.values(), *metrics.values()))
    assert "Dear" not in told
    assert "Ada" not in told
    assert "example.com" not in told


async def campaign(world):
    """Lead one recipient to the end, one into an error, and leave one waiting."""
    request = batch_request_document(3, template=TEMPLATE, traceparent=f"00-{TRACE}-{SPAN}-01")
    world.database.batch_requests.insert_one(request)
    await world.until(lambda: len(world.lines()) == 3)
    query = {"status": "awaiting_reply"}
    await world.until(lambda: world.database.conversations.count_documents(query) == 3)
    broken = {"recipient.id": "r1"}
    world.database.conversations.update_one(broken, {"$set": {"visit": "nonsense"}})
    for number in (0, 1):
        update = {"_id": f"u{number}", "recipient_id": f"r{number}", "kind": "reply"}
        world.database.conversation_updates.insert_one(
            update | {"batch_request_id": request["_id"], "text": "yes"}
        )
    await world.until(lambda: len(world.lines()) == 4)
    await world.until(lambda: world.database.conversations.find_one(broken)["last_error"])
