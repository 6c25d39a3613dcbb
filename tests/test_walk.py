"""The walk, from an inserted request to a completed campaign, on a real replica set."""

from datetime import timedelta

import pytest

from tests.builders import batch_request_document, recipient_document, template_document
from tests.invariants import check_invariants
from tests.world import world as make_world

STAGES = [
    {
        "id": "intro",
        "message": {"subject": "Plan for {{ recipient.first_name }}", "body": "Hello"},
        "follow_ups": [
            {"after": "2d", "message": {"body": "Still there?"}},
            {"after": "3d", "message": {"body": "Last call"}},
        ],
        "reply_within": "4d",
        "on_reply": [
            {"intent": "unclassified", "then": "hold"},
            {"intent": "out_of_office", "then": "stay"},
            {"intent": "interested", "then": {"go_to": "demo"}},
            {"intent": "again", "then": {"go_to": "intro"}},
            {"intent": "human", "then": "escalate"},
            {"then": "complete"},
        ],
        "on_no_reply": "complete",
    },
    {
        "id": "demo",
        "message": {"body": "You said: {{ reply.text }}"},
        "reply_within": "5d",
        "on_reply": [{"then": "advance"}],
    },
    {"id": "thanks", "final": True, "message": {"body": "Thanks"}},
]
TEMPLATE = template_document(stages=STAGES, max_duration="40d")


@pytest.fixture
async def world(mongodb_uri, mongodb_client, database_name, tmp_path):
    """A world with a worker that works when it is told to; whatever came of it must hold."""
    async with make_world(mongodb_uri, mongodb_client, database_name, tmp_path) as made:
        yield made
        check_invariants(made.database, made.handed_off())


async def test_from_request_to_completed(world):
    """A request becomes a campaign; silence, a reply and the last stage lead to its end."""
    answer = await world.submit(template=TEMPLATE)
    assert answer["status"] == "accepted"
    assert answer["counts"] == {"recipients": 1, "rejected": 0}
    assert world.conversation()["status"] == "awaiting_reply"
    await world.pass_time(days=2)
    await world.tell("reply", text="tell me more", intent="interested")
    await world.tell("reply", text="yes", intent="whatever")
    assert world.reasons() == [
        "opened",
        "message_sent",
        "follow_up_sent",
        "went_to_stage",
        "message_sent",
        "stage_advanced",
        "message_sent",
        "completed",
    ]
    assert world.conversation()["exit_reason"] == "final_stage"
    bodies = [message["body"] for message in world.handed_off()]
    assert bodies == ["Hello", "Still there?", "You said: tell me more", "Thanks"]
    subjects = [message["subject"] for message in world.handed_off()]
    assert subjects[:2] == ["Plan for Ada", "Re: Plan for Ada"]
    campaign = world.campaign()
    assert (campaign["status"], campaign["completion_reason"]) == ("completed", "all_final")
    assert campaign["counts"]["by_exit_reason"] == {"final_stage": 1}
    assert campaign["messages"]["sent"] == 4
    assert [message["status"] for message in world.messages()] == ["sent"] * 4


async def test_a_scheduled_campaign_waits_for_its_time(world):
    """Nothing leaves before `scheduled_at`."""
    now = await world.worker.engine.store.now()
    await world.submit(template=TEMPLATE, scheduled_at=now + timedelta(days=3))
    assert world.campaign()["status"] == "scheduled"
    assert world.conversation()["waiting_for"] == ["start"]
    await world.pass_time(days=2)
    assert world.handed_off() == []
    await world.pass_time(days=1, seconds=1)
    assert world.campaign()["status"] == "active"
    assert len(world.handed_off()) == 1


async def test_a_scheduled_campaign_that_is_too_late_is_cancelled(world):
    """Later than `start_within` after its time it is not started."""
    now = await world.worker.engine.store.now()
    scheduled_at = now + timedelta(days=3)
    await world.submit(template=TEMPLATE, scheduled_at=scheduled_at, start_within="1h")
    await world.pass_time(days=4)
    campaign = world.campaign()
    assert (campaign["status"], campaign["completion_reason"]) == ("cancelled", "too_late")
    assert world.handed_off() == []


async def test_a_request_is_rejected_with_all_of_its_problems(world):
    """A bad template starts nothing, and every problem is on the request."""
    stages = [{"id": "intro", "message": {"body": "{{ recipient.first_name | upper }}"}}]
    bad = template_document(stages=stages, channel="sms", timezone="Mars/Base")
    answer = await world.submit(template=bad)
    assert answer["status"] == "rejected"
    assert any("timezone" in problem for problem in answer["problems"])
    assert world.campaign() is None
    good = template_document(stages=stages, channel="sms")
    world.request = "r2"
    answer = await world.submit(template=good)
    assert any("channel" in problem for problem in answer["problems"])
    assert any("upper" in problem for problem in answer["problems"])


async def test_bad_recipients_are_skipped_and_reported(world):
    """One bad recipient does not sink the others."""
    recipients = [
        recipient_document("r0"),
        recipient_document("r1", timezone="Mars/Base"),
        recipient_document("r2", attributes={}),
        recipient_document("r3", address={"email": "R0@example.com "}),
        recipient_document("r0", address={"email": "other@example.com"}),
        "nobody",
    ]
    answer = await world.submit(recipients, template=TEMPLATE)
    assert answer["status"] == "accepted"
    assert answer["counts"] == {"recipients": 6, "rejected": 5}
    problems = {entry["index"]: entry["problem"] for entry in answer["rejected_recipients"]}
    assert set(problems) == {1, 2, 3, 4, 5}
    assert "timezone" in problems[1]
    assert "recipient.first_name" in problems[2]
    assert "same address" in problems[3]
    assert "same id" in problems[4]
    assert world.campaign()["counts"]["rejected"] == 5
    assert len(world.handed_off()) == 1


async def test_an_opt_out_ends_the_conversation_and_suppresses(world):
    """The address is suppressed, and nothing more leaves."""
    await world.submit(template=TEMPLATE)
    answer = await world.tell("opted_out")
    assert answer["status"] == "applied"
    assert world.conversation()["exit_reason"] == "opted_out"
    assert world.database.suppressions.find_one()["_id"] == "email:r0@example.com"
    await world.pass_time(days=10)
    assert len(world.handed_off()) == 1


async def test_an_escalation_is_resolved(world):
    """A human has the conversation until it is resolved."""
    await world.submit(template=TEMPLATE)
    await world.tell("reply", text="hm", intent="human")
    assert world.conversation()["waiting_for"] == ["resolution"]
    await world.pass_time(days=5)
    assert len(world.handed_off()) == 1
    await world.tell("escalation_resolved", resolution="advance")
    assert world.reasons()[-3:] == ["escalated", "stage_advanced", "message_sent"]


async def test_an_escalation_that_nobody_resolves_expires(world):
    """After its deadline the conversation ends."""
    await world.submit(template=TEMPLATE)
    await world.tell("escalate")
    await world.pass_time(days=7)
    assert world.conversation()["exit_reason"] == "escalation_expired"


async def test_the_maximum_duration_ends_what_is_open(world):
    """At the campaign's deadline its open conversations end with it."""
    await world.submit(template=TEMPLATE | {"max_duration": "10d"})
    await world.tell("escalate")
    await world.pass_time(days=3)
    await world.tell("escalation_resolved", resolution="stay")
    await world.pass_time(days=7)
    assert world.conversation()["exit_reason"] == "max_duration"
    assert world.campaign()["completion_reason"] == "max_duration"


async def test_follow_ups_are_exhausted(world):
    """Silence to the end, for all: that is the campaign's completion reason."""
    await world.submit(2, template=TEMPLATE)
    for days in (2, 3, 4):
        await world.pass_time(days=days)
    assert world.conversation()["exit_reason"] == "no_reply_exhausted"
    assert world.campaign()["completion_reason"] == "follow_ups_exhausted"
    assert len(world.handed_off()) == 6


async def test_a_paused_conversation_waits_and_its_wait_runs_on(world):
    """While paused nothing leaves; the rest of the wait runs on after `resume`."""
    await world.submit(template=TEMPLATE)
    await world.pass_time(days=1)
    await world.tell("pause")
    await world.pass_time(days=5)
    assert len(world.handed_off()) == 1
    await world.tell("resume")
    await world.pass_time(hours=23)
    assert len(world.handed_off()) == 1
    await world.pass_time(hours=1, seconds=1)
    assert len(world.handed_off()) == 2


async def test_a_paused_campaign_waits_and_its_waits_run_on(world):
    """The same for all of a campaign's conversations, with one write."""
    await world.submit(3, template=TEMPLATE)
    await world.pass_time(days=1)
    await world.order("pause")
    await world.pass_time(days=5)
    assert len(world.handed_off()) == 3
    await world.order("resume")
    due = world.conversation()["due_at"] - await world.worker.engine.store.now()
    assert timedelta(hours=23, minutes=59) < due <= timedelta(days=1)
    await world.pass_time(hours=23)
    assert len(world.handed_off()) == 3
    await world.pass_time(hours=1, seconds=1)
    assert len(world.handed_off()) == 6


async def test_a_pause_before_the_start_does_not_move_it(world):
    """The start is a date: a pause that is over by then has changed nothing."""
    now = await world.worker.engine.store.now()
    await world.submit(template=TEMPLATE, scheduled_at=now + timedelta(days=3))
    await world.order("pause")
    await world.tell("pause")
    await world.pass_time(days=1)
    await world.tell("resume")
    await world.order("resume")
    await world.pass_time(days=2, seconds=1)
    assert len(world.handed_off()) == 1


async def test_a_cancelled_campaign_ends_its_conversations(world):
    """Cancelled takes effect at once, and everything is closed."""
    await world.submit(3, template=TEMPLATE)
    answer = await world.order("cancel")
    assert answer["status"] == "applied"
    campaign = world.campaign()
    assert (campaign["status"], campaign["completion_reason"]) == ("cancelled", "cancelled")
    assert campaign["counts"]["by_exit_reason"] == {"cancelled": 3}
    await world.pass_time(days=10)
    assert len(world.handed_off()) == 3


async def test_a_cancelled_conversation_ends(world):
    """One conversation is cancelled, its neighbour goes on."""
    await world.submit(2, template=TEMPLATE)
    await world.tell("cancel")
    await world.pass_time(days=2)
    assert world.conversation("r0")["exit_reason"] == "cancelled"
    assert len(world.messages("r1")) == 2
    assert len(world.messages("r0")) == 1


async def test_an_unclassified_reply_is_held_and_classified_later(world):
    """Follow-ups stop until the agent has classified the reply."""
    await world.submit(template=TEMPLATE)
    await world.tell("reply", text="well", _id="first")
    assert world.conversation()["status"] == "awaiting_agent"
    await world.pass_time(hours=20)
    assert len(world.handed_off()) == 1
    await world.tell("reply", reply_id="first", intent="interested")
    assert world.reasons()[-3:] == ["reply_held", "went_to_stage", "message_sent"]
    assert world.handed_off()[-1]["body"] == "You said: well"


async def test_the_agent_answers_what_is_held_with_its_own_words(world):
    """A `send` leaves as it stands, in the thread; silence after it ends the stage."""
    await world.submit(template=TEMPLATE)
    await world.tell("reply", text="how much?", _id="first")
    text = {"body": "It is {{ 12 }}."}
    answer = await world.tell("send", message=text, in_reply_to="first")
    assert answer["status"] == "applied"
    message = world.handed_off()[-1]
    assert (message["body"], message["subject"]) == ("It is {{ 12 }}.", "Re: Plan for Ada")
    assert message["key"] == answer["message_id"]
    assert world.reasons()[-3:] == ["reply_held", "send_reserved", "agent_message_sent"]
    await world.pass_time(days=4)
    assert world.conversation()["exit_reason"] == "no_reply_exhausted"
    assert len(world.handed_off()) == 2


async def test_a_send_is_superseded_by_a_newer_reply(world):
    """What the agent wrote to an earlier reply does not leave."""
    await world.submit(template=TEMPLATE)
    await world.tell("reply", text="how much?", _id="first")
    await world.insert("reply", text="and when?", _id="second")
    await world.insert("send", message={"body": "12"}, in_reply_to="first", _id="zlate")
    await world.work()
    late = world.database.conversation_updates.find_one({"_id": "zlate"})
    assert (late["status"], late["reason"]) == ("ignored", "superseded")
    assert len(world.handed_off()) == 1


async def test_what_is_held_escalates_when_the_agent_stays_silent(world):
    """The agent's deadline is over: a human has it."""
    await world.submit(template=TEMPLATE)
    await world.tell("reply", text="how much?")
    await world.pass_time(days=1)
    assert world.conversation()["status"] == "escalated"


async def test_a_stage_is_asked_again_under_a_new_key(world):
    """`go_to` the same stage sends its message again, under a key that was never used."""
    await world.submit(template=TEMPLATE)
    await world.tell("reply", text="once more", intent="again")
    await world.tell("reply", text="and again", intent="again")
    keys = [message["key"] for message in world.handed_off()]
    assert len(keys) == len(set(keys)) == 3
    assert [key.split("/", 1)[1] for key in keys] == ["intro/0", "intro/1", "intro/2"]


async def test_the_same_update_twice_is_applied_once(world):
    """An update that comes again, replaced by a copy without an answer, starts nothing."""
    await world.submit(template=TEMPLATE)
    await world.tell("reply", text="more", intent="interested", _id="first")
    before = world.conversation()
    update = world.database.conversation_updates.find_one({"_id": "first"})
    for answered in ("status", "reason", "applied_at"):
        del update[answered]
    world.database.conversation_updates.replace_one({"_id": "first"}, update)
    await world.work()
    again = world.database.conversation_updates.find_one({"_id": "first"})
    assert (again["status"], again["reason"]) == ("applied", "repeated")
    assert world.conversation() == before


async def test_the_same_request_again_starts_nothing(world):
    """A copy of a request is answered with the campaign that it has already."""
    first = await world.submit(template=TEMPLATE)
    world.database.batch_requests.delete_one({"_id": world.request})
    again = await world.submit(3, template=TEMPLATE)
    assert (again["status"], again["campaign_id"]) == ("accepted", first["campaign_id"])
    assert again["problems"][0].startswith("already accepted at ")
    assert world.database.conversations.count_documents({}) == 1


async def test_a_failed_conversation_is_retried_by_order(world):
    """`retry` puts it back where it stood; a completed campaign is active again."""
    await world.submit(template=TEMPLATE | {"max_messages": 1})
    await world.pass_time(days=2)
    assert world.conversation()["exit_reason"] == "runaway_guard"
    assert world.campaign()["status"] == "completed"
    await world.order("retry")
    assert world.campaign()["status"] == "completed"
    assert world.reasons()[-3:] == ["failed", "retried", "failed"]


async def test_an_update_of_nobody_is_rejected(world):
    """An update for a conversation that does not exist is answered so."""
    await world.submit(template=TEMPLATE)
    answer = await world.tell("reply", "nobody", text="hello")
    assert (answer["status"], answer["reason"]) == ("rejected", "no such conversation")


async def test_a_template_is_named_by_name_and_version(world):
    """The one of that version is pinned; without a version the highest."""
    texts = {1: "First", 3: "Third", 2: "Second"}
    world.database.campaign_templates.insert_many(
        TEMPLATE
        | {"name": "shared", "version": version}
        | {"stages": [{"id": "intro", "message": {"body": body}}]}
        for version, body in texts.items()
    )
    for number, ref in enumerate(({"name": "shared"}, {"name": "shared", "version": 2})):
        world.request = f"by-name-{number}"
        other = [recipient_document(address={"email": f"r{number}@example.com"})]
        answer = await world.submit(other, template=None, template_ref=ref)
        assert answer["status"] == "accepted"
    assert [line["body"] for line in world.handed_off()] == ["Third", "Second"]
    world.request = "broken"
    world.database.campaign_templates.insert_one({"name": "broken", "version": 1, "stages": []})
    answer = await world.submit(template=None, template_ref={"name": "broken"})
    assert answer["status"] == "rejected"
    assert all("template 'broken'" in problem for problem in answer["problems"])


async def test_one_bad_recipient_rejects_the_request_where_it_says_so(world):
    """`on_invalid_recipient: reject` names every problem and starts nothing."""
    recipients = [
        recipient_document("r0"),
        recipient_document("r1", timezone="Mars/Base"),
        recipient_document("r2", address={"email": "r0@example.com"}),
        recipient_document("r0", address={"email": "other@example.com"}),
    ]
    answer = await world.submit(recipients, template=TEMPLATE, on_invalid_recipient="reject")
    assert answer["status"] == "rejected"
    assert [problem.split(":")[0] for problem in answer["problems"]] == [
        "$.recipients[1]",
        "$.recipients[2]",
        "$.recipients[3]",
    ]
    assert world.campaign() is None
    world.request = "well"
    answer = await world.submit(recipients[:1], template=TEMPLATE, on_invalid_recipient="reject")
    assert answer["status"] == "accepted"


async def test_recipients_from_their_own_collection(world):
    """They are found by the request's id, whatever their own; their number must agree."""
    documents = [
        {"_id": identity, "batch_request_id": "many"} | recipient_document(f"r{number}")
        for number, identity in enumerate([3, "a", 1.5, {"b": 1}])
    ]
    world.database.batch_recipients.insert_many([*documents, {"batch_request_id": "many"}])
    request = batch_request_document(_id="many", template=TEMPLATE) | {
        "recipients_from": "batch_recipients"
    }
    del request["recipients"]
    world.request = "many"
    world.database.batch_requests.insert_one(request | {"recipient_count": 5})
    await world.work()
    assert world.answer()["counts"] == {"recipients": 5, "rejected": 1}
    assert len(world.handed_off()) == 4
    world.request = "few"
    world.database.batch_requests.insert_one(request | {"_id": "few", "recipient_count": 5})
    await world.work()
    assert world.answer()["problems"] == ["$.recipient_count: expected 5 recipients, found 0"]


async def test_a_suppression_that_is_no_address_key_says_so(world):
    """The agent finds on the document itself what was expected; a right one is left as it is."""
    added = [{"_id": "email:r0@example.com", "reason": "mine"}, {"_id": "r0@example.com"}]
    world.database.suppressions.insert_many(added)
    await world.work()
    right, wrong = world.database.suppressions.find().sort("_id")
    assert right == added[0] | {"checked": True}
    assert wrong["problem"].startswith("$._id: expected an address key like email:ada@example.com")
