"""What each kind of update leads to: one row per answer and place that matters."""

from datetime import timedelta
from uuid import UUID

import pytest
from attrs import evolve

from handlers.replies import rule_for
from handlers.updates import HANDLERS, on_update
from schemas.action import ADVANCE, COMPLETE, ESCALATE, HOLD, STAY, go_to
from schemas.campaign import CampaignStatus
from schemas.conversation import (
    MAX_APPLIED,
    MAX_HISTORY,
    AgentText,
    ConversationStatus,
    HistoryEntry,
    MessageRef,
    SlotState,
    Unsent,
    Visit,
    WaitingFor,
)
from schemas.hand_off import Gate, OnUnknown
from schemas.ids import send_key
from schemas.message import MessageStatus
from schemas.transition import Reason, Report, Suppress
from schemas.update import Bounce, OptOutScope, Resolve, UpdateKind, UpdateStatus
from tests.builders import DAY, HOUR, NOW, conversation, recipient, reply, rule, stage, template
from tests.decided import (
    AGENT_DEADLINE,
    ESCALATION_DEADLINE,
    MINUTE,
    OPEN_PLACES,
    PLACES,
    TEMPLATE,
    WITHIN,
    awaiting,
    case,
    channel,
    come_of,
    ended,
    escalated,
    expected,
    held,
    pass_on,
    paused,
    paused_campaign,
    pending,
    reserving,
    scene,
    seen,
    sending,
    tell,
    told_as_expected,
    unknown,
    update,
    writing,
)

S = ConversationStatus
ROW = ("given", "when", "at", "answer", "changes")
ZERO = timedelta(0)
#: Held after its hand-off, with another hour of its hold.
IN_DOUBT = {
    "state": SlotState.UNKNOWN,
    "token": None,
    "uncertain": True,
    "until": NOW + HOUR,
}
LEFT = MINUTE / 2  #: of the lease of a message in flight
KEY = f"{conversation().id}/intro"
ADDRESS = "email:r0@example.com"
#: Two messages are older than its last one.
THIRD = evolve(
    awaiting(), message_count=3, last_message=MessageRef(stage="intro", n=2, channel="email")
)
TWO = recipient(address={"email": "R0@example.com", "sms": "+49 151 12345678"})
BOTH = (channel("email"), channel("sms"))


def classified(intent, of="reply-1"):
    """Make an update that classifies an earlier reply."""
    return update("reply", reply_id=of, intent=intent)


def says(intent=None, text="Hm"):
    """Make a reply."""
    return update("reply", text=text, intent=intent)


def resolves(outcome, **fields):
    """Make a human's word on the message that is in doubt."""
    return update("unknown_resolved", outcome=Resolve(outcome), **fields)


def ends(exit_reason, due=None):
    """Say what a row expects of a conversation that is completed; `due` while one is in flight."""
    completed = {"status": "completed", "exit_reason": exit_reason, "history": ("completed",)}
    return completed | {"wait": None, "due": due}


def enters(stage, reason):
    """Say what a row expects of one that enters a stage: its message is next."""
    entered = {"status": "pending", "stage": stage, "history": (reason,)}
    return entered | {"wait": ZERO, "due": ZERO}


def handed_over(reason):
    """Say what a row expects of one that a human or the agent has next."""
    if reason == "escalated":
        status, wait = "escalated", ESCALATION_DEADLINE
    else:
        status, wait = "awaiting_agent", AGENT_DEADLINE
    return {"status": status, "wait": wait, "due": wait, "history": (reason,)}


def reserves(n):
    """Say what a row expects of a `send`: it is next."""
    slot = ("reserved", None, n)
    return {"status": "pending", "due": ZERO, "slot": slot, "history": ("send_reserved",)}


REPLIES = [
    case(
        "stage_advanced",
        awaiting(),
        says("next"),
        "applied: stage_advanced",
        **enters("demo", "stage_advanced"),
    ),
    case(
        "stage_advanced, a message reserved is cancelled",
        reserving(awaiting()),
        says("next"),
        "applied: stage_advanced",
        **enters("demo", "stage_advanced"),
        slot=None,
        effects=(("cancelled", 1, "stage_advanced"),),
    ),
    case(
        "stage_advanced, a doubtful message reserved is unknown",
        reserving(awaiting(), uncertain=True),
        says("next"),
        "applied: stage_advanced",
        **enters("demo", "stage_advanced"),
        slot=None,
        effects=(("unknown", 1, "stage_advanced"),),
    ),
    case(
        "stage_advanced, a message held is unknown",
        unknown(awaiting()),
        says("next"),
        "applied: stage_advanced",
        **enters("demo", "stage_advanced"),
        slot=None,
        effects=(("unknown", 1, "stage_advanced"),),
    ),
    case(
        "stage_advanced, the next message waits for the one in flight",
        sending(awaiting()),
        says("next"),
        "applied: stage_advanced",
        status="pending",
        stage="demo",
        wait=ZERO,
        history=("stage_advanced",),
    ),
    case(
        "went_to_stage",
        awaiting(),
        says("interested"),
        "applied: went_to_stage",
        **enters("thanks", "went_to_stage"),
    ),
    case(
        "went_to_stage, the same again",
        awaiting(3),
        says("again"),
        "applied: went_to_stage",
        status="pending",
        wait=ZERO,
        due=ZERO,
        history=("went_to_stage",),
    ),
    case(
        "escalated",
        awaiting(),
        says("human"),
        "applied: escalated",
        **handed_over("escalated"),
    ),
    case(
        "escalated, a message reserved is cancelled",
        reserving(awaiting()),
        says("human"),
        "applied: escalated",
        **handed_over("escalated"),
        slot=None,
        effects=(("cancelled", 1, "escalated"),),
    ),
    case(
        "reply_held",
        awaiting(),
        says(),
        "applied: reply_held",
        **handed_over("reply_held"),
    ),
    case(
        "reply_held, and a message reserved is cancelled",
        reserving(pending()),
        says(),
        "applied: reply_held",
        **handed_over("reply_held"),
        slot=None,
        effects=(("cancelled", 0, "reply_held"),),
    ),
    case(
        "reply_held again: the agent has its time again",
        held(),
        says("question"),
        "applied: reply_held",
        wait=AGENT_DEADLINE,
        due=AGENT_DEADLINE,
        history=("reply_held",),
    ),
    case(
        "reply_stayed",
        awaiting(),
        says("away"),
        "applied: reply_stayed",
        history=("reply_stayed",),
    ),
    case(
        "reply_stayed, a message on its way goes on",
        sending(pending()),
        says("away"),
        "applied: reply_stayed",
        history=("reply_stayed",),
    ),
    case(
        "reply_stayed while the agent has another reply",
        held(),
        says("away"),
        "applied: reply_stayed",
        history=("reply_stayed",),
    ),
    case(
        "reply_noted",
        escalated(),
        says("no"),
        "applied: reply_noted",
        history=("reply_noted",),
    ),
    case(
        "completed",
        awaiting(),
        says("never"),
        "applied: completed",
        **ends("replied"),
    ),
    case(
        "completed where no rule names the intent",
        awaiting(),
        says("something else"),
        "applied: completed",
        **ends("replied"),
    ),
    case(
        "completed, the message in flight keeps its slot",
        sending(awaiting()),
        says("no"),
        "applied: completed",
        **ends("replied", LEFT),
    ),
    case(
        "completed, a message reserved is cancelled",
        reserving(awaiting()),
        says("no"),
        "applied: completed",
        **ends("replied"),
        slot=None,
        effects=(("cancelled", 1, "replied"),),
    ),
    case(
        "completed after the last stage",
        conversation(stage="thanks", wait_until=NOW),
        says("next"),
        "applied: completed",
        at=scene(
            template=template(stages=(stage("thanks", on_reply=(rule(ADVANCE),)),)),
        ),
        **ends("replied"),
    ),
    case(
        "final",
        ended(),
        says("next"),
        "ignored: final",
    ),
]

CLASSIFICATIONS = [
    case(
        "no_such_reply",
        awaiting(),
        classified("next"),
        "ignored: no_such_reply",
    ),
    case(
        "superseded",
        held(reply=reply(id="newer")),
        classified("next"),
        "ignored: superseded",
    ),
    case(
        "reply_settled",
        awaiting(reply=reply(settled=True)),
        classified("next"),
        "ignored: reply_settled",
    ),
    case(
        "reply_settled: a human has it",
        escalated(reply=reply()),
        classified("next"),
        "ignored: reply_settled",
    ),
    case(
        "stage_advanced",
        held(),
        classified("next"),
        "applied: stage_advanced",
        **enters("demo", "stage_advanced"),
    ),
    case(
        "stage_advanced: what had stayed is classified otherwise",
        awaiting(reply=reply(intent="away")),
        classified("next"),
        "applied: stage_advanced",
        **enters("demo", "stage_advanced"),
    ),
    case(
        "reply_held: without an intent it is held again",
        held(),
        update("reply", reply_id="reply-1"),
        "applied: reply_held",
        wait=AGENT_DEADLINE,
        due=AGENT_DEADLINE,
        history=("reply_held",),
    ),
    case(
        "reply_stayed: the next follow-up comes after its delay, from now",
        held(),
        classified("away"),
        "applied: reply_stayed",
        status="awaiting_reply",
        wait=2 * DAY,
        due=2 * DAY,
        history=("reply_stayed",),
    ),
    case(
        "reply_stayed after the last follow-up: silence counts from now",
        held(visit=Visit(messages=3), follow_ups_sent=2),
        classified("away"),
        "applied: reply_stayed",
        status="awaiting_reply",
        wait=WITHIN,
        due=WITHIN,
        history=("reply_stayed",),
    ),
    case(
        "reply_stayed before the first message: it leaves now",
        held(visit=Visit(), message_count=0, last_message=None),
        classified("away"),
        "applied: reply_stayed",
        status="pending",
        wait=ZERO,
        due=ZERO,
        history=("reply_stayed",),
    ),
    case(
        "reply_stayed while the stage's message is in flight: it is wanted again",
        sending(held(visit=Visit(), message_count=0, last_message=None)),
        classified("away"),
        "applied: reply_stayed",
        status="pending",
        wait=ZERO,
        history=("reply_stayed",),
    ),
    case(
        "reply_stayed while a follow-up is in flight: it is wanted again",
        sending(held()),
        classified("away"),
        "applied: reply_stayed",
        status="awaiting_reply",
        wait=2 * DAY,
        history=("reply_stayed",),
    ),
    case(
        "reply_stayed where it waits for a reply already",
        awaiting(reply=reply(intent="away")),
        classified("away"),
        "applied: reply_stayed",
        history=("reply_stayed",),
    ),
    case(
        "completed",
        held(),
        classified("no"),
        "applied: completed",
        **ends("replied"),
    ),
]

SENDS = [
    case(
        "send_reserved",
        awaiting(),
        update("send"),
        "applied: send_reserved",
        **reserves(1),
    ),
    case(
        "send_reserved to what is held",
        held(),
        update("send", in_reply_to="reply-1"),
        "applied: send_reserved",
        **reserves(1),
    ),
    case(
        "send_reserved instead of a human",
        escalated(),
        update("send", then=go_to("demo")),
        "applied: send_reserved",
        **reserves(1),
    ),
    case(
        "send_reserved, instead of a message that was reserved",
        reserving(awaiting()),
        update("send"),
        "applied: send_reserved",
        **reserves(2),
        effects=(("cancelled", 1, "send_reserved"),),
    ),
    case("waits", sending(awaiting()), update("send"), None),
    case("waits for a human's word", unknown(awaiting()), update("send"), None),
    case(
        "superseded",
        held(reply=reply(id="newer")),
        update("send", in_reply_to="reply-1"),
        "ignored: superseded",
    ),
    case(
        "superseded: there is no reply at all",
        awaiting(),
        update("send", in_reply_to="reply-1"),
        "ignored: superseded",
    ),
    case(
        "no_such_stage",
        awaiting(),
        update("send", then=go_to("nowhere")),
        "rejected: no_such_stage",
    ),
    case(
        "no_address",
        awaiting(),
        update("send"),
        "rejected: no_address",
        at=scene(channels=[channel("email", address_kind="sms")]),
    ),
    case(
        "runaway_guard",
        awaiting(2),
        update("send"),
        "ignored: runaway_guard",
        at=scene(template=evolve(TEMPLATE, max_messages=2)),
        status="failed",
        exit_reason="runaway_guard",
        wait=None,
        due=None,
        history=("failed",),
    ),
    case(
        "runaway_guard, and what was reserved is cancelled",
        reserving(awaiting()),
        update("send"),
        "ignored: runaway_guard",
        at=scene(template=evolve(TEMPLATE, max_messages=2)),
        status="failed",
        exit_reason="runaway_guard",
        wait=None,
        due=None,
        slot=None,
        history=("failed",),
        effects=(("cancelled", 1, "runaway_guard"),),
    ),
    case("final", ended(), update("send"), "ignored: final"),
]

DELIVERED = "delivered"
REPORTS = [
    case(
        "reported: about the last message",
        awaiting(),
        update(DELIVERED),
        "applied: reported",
        effects=(("delivered", 0),),
    ),
    case(
        "reported: about an earlier message",
        awaiting(2),
        update(DELIVERED, message_id=f"{KEY}/0"),
        "applied: reported",
        effects=(("delivered", 0),),
    ),
    case(
        "reported after the end",
        ended(),
        update(DELIVERED),
        "applied: reported",
        effects=(("delivered", 0),),
    ),
    case(
        "reported while in flight: its worker will know",
        sending(awaiting()),
        update(DELIVERED, message_id=f"{KEY}/1"),
        "applied: reported",
        effects=(("sent", 1, None), ("delivered", 1)),
    ),
    case(
        "reported without a key while in flight: about that message",
        sending(awaiting()),
        update(DELIVERED),
        "applied: reported",
        effects=(("sent", 1, None), ("delivered", 1)),
    ),
    case(
        "reported in flight, its worker is gone: settled",
        sending(awaiting(), until=NOW),
        update(DELIVERED, message_id=f"{KEY}/1"),
        "applied: reported",
        wait=4 * DAY,
        due=4 * DAY,
        slot=None,
        history=("follow_up_sent",),
        effects=(("sent", 1, None), ("delivered", 1)),
    ),
    case(
        "reported while held: settled",
        unknown(pending()),
        update(DELIVERED),
        "applied: reported",
        status="awaiting_reply",
        wait=2 * DAY,
        due=2 * DAY,
        slot=None,
        history=("message_sent",),
        effects=(("sent", 0, None), ("delivered", 0)),
    ),
    case(
        "reported while another is held: that one stays so",
        unknown(awaiting()),
        update(DELIVERED, message_id=f"{KEY}/0"),
        "applied: reported",
        effects=(("delivered", 0),),
    ),
    case(
        "reported before the next attempt at a doubtful one: settled",
        reserving(pending(), uncertain=True),
        update(DELIVERED),
        "applied: reported",
        status="awaiting_reply",
        wait=2 * DAY,
        due=2 * DAY,
        slot=None,
        history=("message_sent",),
        effects=(("sent", 0, None), ("delivered", 0)),
    ),
    case(
        "reported without a key while another is only reserved: about the one before",
        reserving(awaiting(), attempts=0),
        update(DELIVERED),
        "applied: reported",
        effects=(("delivered", 0),),
    ),
    case(
        "reported with the key of one that was refused so far: nothing settles",
        reserving(awaiting()),
        update(DELIVERED, message_id=f"{KEY}/1"),
        "applied: reported",
        effects=(("delivered", 1),),
    ),
    case(
        "no_such_message: none was sent", pending(), update(DELIVERED), "ignored: no_such_message"
    ),
    case(
        "no_such_message: none was handed off",
        reserving(pending()),
        update(DELIVERED),
        "ignored: no_such_message",
    ),
    case(
        "no_such_message: another conversation's",
        awaiting(),
        update(DELIVERED, message_id="other/intro/0"),
        "ignored: no_such_message",
    ),
    case(
        "no_such_message: a number not reached yet",
        awaiting(),
        update(DELIVERED, message_id=f"{KEY}/1"),
        "ignored: no_such_message",
    ),
    case(
        "no_such_message: no number",
        awaiting(),
        update(DELIVERED, message_id=f"{KEY}/-1"),
        "ignored: no_such_message",
    ),
    case(
        "no_such_message: no key",
        awaiting(),
        update(DELIVERED, message_id="0"),
        "ignored: no_such_message",
    ),
    *(
        case(
            f"no_such_message: {name}",
            given,
            update(DELIVERED, message_id=f"{conversation().id}/{key}"),
            "ignored: no_such_message",
        )
        for name, given, key in (
            ("no stage of its template", THIRD, "other/0"),
            ("a number after its last", THIRD, "demo/3"),
            ("no stage", THIRD, "/0"),
            ("a stage too many", THIRD, "intro/demo/0"),
            ("a zero too many", THIRD, "intro/00"),
            ("a number in other digits", THIRD, "intro/\u0660"),
            ("the number of its last message, another stage", THIRD, "demo/2"),
            ("the number of the one in flight, another stage", sending(awaiting()), "demo/1"),
        )
    ),
    case(
        "reported: an older one",
        THIRD,
        update(DELIVERED, message_id=f"{conversation().id}/demo/1"),
        "applied: reported",
        effects=(("delivered", 1),),
    ),
]

BOUNCES = [
    case(
        "completed",
        awaiting(),
        update("bounced"),
        "applied: completed",
        **ends("bounced"),
        effects=(("bounced", 0), ("suppress", ADDRESS)),
    ),
    case(
        "completed, and what is held is unknown",
        unknown(awaiting()),
        update("bounced", message_id=f"{KEY}/0"),
        "applied: completed",
        **ends("bounced"),
        slot=None,
        effects=(("bounced", 0), ("suppress", ADDRESS), ("unknown", 1, "bounced")),
    ),
    case(
        "completed, and what is in flight was sent",
        sending(awaiting()),
        update("bounced"),
        "applied: completed",
        **ends("bounced", LEFT),
        effects=(("sent", 1, None), ("bounced", 1), ("suppress", ADDRESS)),
    ),
    case(
        "completed before any message: the address is bad all the same",
        pending(),
        update("bounced"),
        "applied: completed",
        **ends("bounced"),
        effects=(("suppress", ADDRESS),),
    ),
    case(
        "suppressed: after the end",
        ended(),
        update("bounced"),
        "applied: suppressed",
        effects=(("bounced", 0), ("suppress", ADDRESS)),
    ),
    case(
        "suppressed: an older one, after the end",
        evolve(ended(), message_count=3, last_message=THIRD.last_message),
        update("bounced", message_id=f"{KEY}/0"),
        "applied: suppressed",
        effects=(("bounced", 0), ("suppress", ADDRESS)),
    ),
    case("soft_bounce", awaiting(), update("bounced", bounce=Bounce.SOFT), "ignored: soft_bounce"),
    case(
        "no_such_message",
        awaiting(),
        update("bounced", message_id="other/intro/0"),
        "ignored: no_such_message",
    ),
]

SMS = MessageRef(stage="intro", n=0, channel="sms")
NUMBER = "sms:+4915112345678"
BOTH_KEYS = (ADDRESS, NUMBER)
OPT_OUTS = [
    case(
        "completed",
        awaiting(),
        update("opted_out"),
        "applied: completed",
        **ends("opted_out"),
        effects=(("suppress", ADDRESS),),
    ),
    case(
        "completed: the address last written to",
        awaiting(recipient=TWO, address_keys=BOTH_KEYS, last_message=SMS),
        update("opted_out"),
        "applied: completed",
        at=scene(channels=BOTH),
        **ends("opted_out"),
        effects=(("suppress", NUMBER),),
    ),
    case(
        "completed: the address being written to",
        sending(awaiting(recipient=TWO, address_keys=BOTH_KEYS), channel="sms"),
        update("opted_out"),
        "applied: completed",
        at=scene(channels=BOTH),
        **ends("opted_out", LEFT),
        effects=(("suppress", NUMBER),),
    ),
    case(
        "completed: not the address that is only reserved",
        reserving(awaiting(recipient=TWO, address_keys=BOTH_KEYS), channel="sms"),
        update("opted_out"),
        "applied: completed",
        at=scene(channels=BOTH),
        **ends("opted_out"),
        slot=None,
        effects=(("suppress", ADDRESS), ("cancelled", 1, "opted_out")),
    ),
    case(
        "completed: all addresses of the recipient",
        awaiting(recipient=TWO, address_keys=BOTH_KEYS),
        update("opted_out", scope=OptOutScope.RECIPIENT),
        "applied: completed",
        at=scene(channels=BOTH),
        **ends("opted_out"),
        effects=(("suppress", ADDRESS), ("suppress", NUMBER)),
    ),
    case(
        "completed before any message: the address that would be written to",
        pending(recipient=TWO, address_keys=BOTH_KEYS),
        update("opted_out"),
        "applied: completed",
        at=scene(channels=BOTH),
        **ends("opted_out"),
        effects=(("suppress", ADDRESS),),
    ),
    case(
        "completed where the channels have changed: all addresses, to be sure",
        pending(recipient=TWO, address_keys=BOTH_KEYS),
        update("opted_out"),
        "applied: completed",
        at=scene(channels=[channel("email", address_kind="post")]),
        **ends("opted_out"),
        effects=(("suppress", ADDRESS), ("suppress", NUMBER)),
    ),
    case(
        "completed where the channel last written to has changed: all addresses, too",
        awaiting(recipient=TWO, address_keys=BOTH_KEYS),
        update("opted_out"),
        "applied: completed",
        at=scene(channels=[channel("email", address_kind="post")]),
        **ends("opted_out"),
        effects=(("suppress", ADDRESS), ("suppress", NUMBER)),
    ),
    case(
        "suppressed: after the end",
        ended("cancelled"),
        update("opted_out"),
        "applied: suppressed",
        effects=(("suppress", ADDRESS),),
    ),
]

RETRY_NOW = {"status": "awaiting_reply", "exit_reason": None, "wait": ZERO, "due": ZERO}
TEXT = Unsent(text=AgentText(body="It is 12."), by="send-1", then=STAY)
WROTE = Visit(messages=1, follow_ups_dropped=True)
ORDERS = [
    case(
        "escalated",
        awaiting(),
        update("escalate"),
        "applied: escalated",
        **handed_over("escalated"),
    ),
    case(
        "escalated during a hand-off",
        sending(pending()),
        update("escalate"),
        "applied: escalated",
        status="escalated",
        wait=ESCALATION_DEADLINE,
        history=("escalated",),
    ),
    case("repeated: a human has it", escalated(), update("escalate"), "ignored: repeated"),
    case("not_escalated", awaiting(), update("escalation_resolved"), "ignored: not_escalated"),
    case(
        "no_such_stage",
        escalated(),
        update("escalation_resolved", resolution=go_to("nowhere")),
        "rejected: no_such_stage",
    ),
    case(
        "escalation_stayed",
        escalated(),
        update("escalation_resolved", resolution=STAY),
        "applied: escalation_stayed",
        status="awaiting_reply",
        wait=2 * DAY,
        due=2 * DAY,
        history=("escalation_stayed",),
    ),
    case(
        "escalation_stayed before the first message",
        escalated(visit=Visit(), message_count=0, last_message=None),
        update("escalation_resolved", resolution=STAY),
        "applied: escalation_stayed",
        status="pending",
        wait=ZERO,
        due=ZERO,
        history=("escalation_stayed",),
    ),
    case(
        "escalation_stayed while the stage's message is in flight",
        sending(escalated(visit=Visit(), message_count=0, last_message=None)),
        update("escalation_resolved", resolution=STAY),
        "applied: escalation_stayed",
        status="pending",
        wait=ZERO,
        history=("escalation_stayed",),
    ),
    case(
        "escalation_stayed while the agent's text is in flight",
        evolve(writing(awaiting()), status=S.ESCALATED, wait_until=NOW + HOUR),
        update("escalation_resolved", resolution=STAY),
        "applied: escalation_stayed",
        status="pending",
        wait=ZERO,
        history=("escalation_stayed",),
    ),
    case(
        "stage_advanced: resolved",
        escalated(),
        update("escalation_resolved", resolution=ADVANCE),
        "applied: stage_advanced",
        **enters("demo", "stage_advanced"),
    ),
    case(
        "went_to_stage: resolved",
        escalated(),
        update("escalation_resolved", resolution=go_to("thanks")),
        "applied: went_to_stage",
        **enters("thanks", "went_to_stage"),
    ),
    case(
        "completed: resolved",
        escalated(),
        update("escalation_resolved", resolution=COMPLETE),
        "applied: completed",
        **ends("escalation_resolved"),
    ),
    case(
        "completed: goal_reached",
        awaiting(),
        update("goal_reached"),
        "applied: completed",
        **ends("goal_reached"),
    ),
    case(
        "cancelled",
        reserving(awaiting()),
        update("cancel"),
        "applied: cancelled",
        status="cancelled",
        exit_reason="cancelled",
        wait=None,
        due=None,
        slot=None,
        history=("cancelled",),
        effects=(("cancelled", 1, "cancelled"),),
    ),
    case(
        "cancelled during a hand-off",
        sending(awaiting()),
        update("cancel"),
        "applied: cancelled",
        status="cancelled",
        exit_reason="cancelled",
        wait=None,
        history=("cancelled",),
    ),
    case("not_failed", ended(), update("retry"), "ignored: not_failed"),
    case("not_failed: it is open", awaiting(), update("retry"), "ignored: not_failed"),
    case(
        "deadline_over",
        ended("failed", deadline_at=NOW),
        update("retry"),
        "ignored: deadline_over",
    ),
    case(
        "deadline_over: the campaign was cancelled",
        ended("failed"),
        update("retry"),
        "ignored: deadline_over",
        at=scene(status=CampaignStatus.CANCELLED),
    ),
    case(
        "deadline_over: the campaign has failed",
        ended("failed"),
        update("retry"),
        "ignored: deadline_over",
        at=scene(status=CampaignStatus.FAILED),
    ),
    case(
        "retried: the follow-up that failed is next",
        ended("failed"),
        update("retry"),
        "applied: retried",
        **RETRY_NOW,
        history=("retried",),
    ),
    case(
        "retried: the stage's message that failed is next",
        ended("failed", visit=Visit(), last_message=None),
        update("retry"),
        "applied: retried",
        **RETRY_NOW | {"status": "pending"},
        history=("retried",),
    ),
    case(
        "retried: what the agent wrote is next",
        ended("failed", unsent=TEXT, visit=WROTE),
        update("retry"),
        "applied: retried",
        **RETRY_NOW | {"status": "pending"},
        history=("retried",),
    ),
    case(
        "retried: a completed campaign opens again",
        ended("failed"),
        update("retry"),
        "applied: retried",
        at=scene(status=CampaignStatus.COMPLETED),
        **RETRY_NOW,
        history=("retried",),
    ),
]

PAUSES = [
    case(
        "paused",
        awaiting(),
        update("pause"),
        "applied: paused",
        status="paused",
        due=30 * DAY,
        history=("paused",),
    ),
    case(
        "paused until",
        awaiting(),
        update("pause", until=NOW + HOUR),
        "applied: paused",
        status="paused",
        due=HOUR,
        history=("paused",),
    ),
    case(
        "paused during a hand-off: due when its lease is over",
        sending(awaiting()),
        update("pause"),
        "applied: paused",
        status="paused",
        due=LEFT,
        history=("paused",),
    ),
    case(
        "paused before the next attempt: that waits",
        reserving(awaiting()),
        update("pause"),
        "applied: paused",
        status="paused",
        due=30 * DAY,
        history=("paused",),
    ),
    case("repeated: paused already", paused(awaiting()), update("pause"), "ignored: repeated"),
    case("not_paused", awaiting(), update("resume"), "ignored: not_paused"),
    case(
        "resumed: the rest of the wait runs on",
        paused(awaiting(), rest=5 * HOUR),
        update("resume"),
        "applied: resumed",
        status="awaiting_reply",
        wait=5 * HOUR,
        due=5 * HOUR,
        history=("resumed",),
    ),
    case(
        "resumed: an escalation's deadline has not stood still",
        paused(escalated(wait_until=NOW - MINUTE)),
        update("resume"),
        "applied: resumed",
        status="escalated",
        wait=-MINUTE,
        due=-MINUTE,
        history=("resumed",),
    ),
    case(
        "resumed: what was held back leaves now",
        paused(reserving(awaiting())),
        update("resume"),
        "applied: resumed",
        status="awaiting_reply",
        wait=DAY,
        due=ZERO,
        slot=("reserved", 1, 1),
        history=("resumed",),
    ),
    case(
        "resumed during a hand-off",
        paused(sending(awaiting())),
        update("resume"),
        "applied: resumed",
        status="awaiting_reply",
        wait=DAY,
        due=LEFT,
        history=("resumed",),
    ),
]

RESOLVED = [
    case(
        "resend: the stage's message leaves now",
        unknown(pending()),
        resolves("resend"),
        "applied: message_resent",
        slot=("reserved", 0, 0),
        due=ZERO,
    ),
    case(
        "resend: a follow-up leaves now",
        unknown(awaiting()),
        resolves("resend"),
        "applied: message_resent",
        slot=("reserved", 1, 1),
        due=ZERO,
    ),
    case(
        "resend: what the agent wrote leaves now",
        writing(awaiting(), **IN_DOUBT),
        resolves("resend"),
        "applied: message_resent",
        slot=("reserved", None, 1),
        due=ZERO,
    ),
    case(
        "resend: named by its key",
        unknown(awaiting()),
        resolves("resend", message_id=f"{KEY}/1"),
        "applied: message_resent",
        slot=("reserved", 1, 1),
        due=ZERO,
    ),
    case(
        "assume_sent: the stage's message",
        unknown(pending()),
        resolves("assume_sent"),
        "applied: message_sent",
        status="awaiting_reply",
        wait=2 * DAY,
        due=2 * DAY,
        slot=None,
        history=("message_sent",),
        effects=(("sent", 0, "assume_sent"),),
    ),
    case(
        "assume_sent: a follow-up",
        unknown(awaiting()),
        resolves("assume_sent"),
        "applied: message_sent",
        wait=4 * DAY,
        due=4 * DAY,
        slot=None,
        history=("follow_up_sent",),
        effects=(("sent", 1, "assume_sent"),),
    ),
    case(
        "assume_sent: named by its key",
        unknown(pending()),
        resolves("assume_sent", message_id=f"{KEY}/0"),
        "applied: message_sent",
        status="awaiting_reply",
        wait=2 * DAY,
        due=2 * DAY,
        slot=None,
        history=("message_sent",),
        effects=(("sent", 0, "assume_sent"),),
    ),
    case(
        "assume_sent: a final stage's message ends it",
        unknown(pending(stage="thanks")),
        resolves("assume_sent"),
        "applied: message_sent",
        status="completed",
        exit_reason="final_stage",
        wait=None,
        due=None,
        slot=None,
        history=("message_sent", "completed"),
        effects=(("sent", 0, "assume_sent"),),
    ),
    case(
        "assume_sent: what the agent wrote, and then its action",
        writing(awaiting(), **IN_DOUBT, then=ADVANCE),
        resolves("assume_sent"),
        "applied: message_sent",
        status="pending",
        stage="demo",
        wait=ZERO,
        due=ZERO,
        slot=None,
        history=("agent_message_sent", "stage_advanced"),
        effects=(("sent", 1, "assume_sent"),),
    ),
    *(
        case(
            f"not_in_doubt: {outcome}, another message is named",
            unknown(awaiting()),
            resolves(outcome, message_id=f"{KEY}/0"),
            "ignored: not_in_doubt",
        )
        for outcome in Resolve
    ),
    case(
        "not_in_doubt: another conversation's message is named",
        unknown(awaiting()),
        resolves("resend", message_id="other/intro/1"),
        "ignored: not_in_doubt",
    ),
    case(
        "not_in_doubt: a message is named, and there is none",
        awaiting(),
        resolves("resend", message_id=f"{KEY}/0"),
        "ignored: not_in_doubt",
    ),
    case(
        "not_in_doubt: its doubt is the next attempt's, not a human's",
        reserving(pending(), uncertain=True),
        resolves("assume_sent"),
        "ignored: not_in_doubt",
    ),
    *(
        case(
            f"not_in_doubt: {outcome}, {place}",
            given,
            resolves(outcome),
            "ignored: not_in_doubt",
        )
        for place, given in OPEN_PLACES.items()
        if not place.endswith("unknown")
        for outcome in Resolve
    ),
    *(
        case(f"final: {outcome}, {place}", given, resolves(outcome), "ignored: final")
        for place, given in PLACES.items()
        if not given.is_open
        for outcome in Resolve
    ),
    case(
        "resend under a pause: it waits for its end",
        paused(unknown(awaiting())),
        resolves("resend"),
        "applied: message_resent",
        slot=("reserved", 1, 1),
        due=30 * DAY,
    ),
    case(
        "assume_sent under a pause: the wait that follows waits",
        paused(unknown(awaiting())),
        resolves("assume_sent"),
        "applied: message_sent",
        wait=4 * DAY,
        due=30 * DAY,
        slot=None,
        history=("follow_up_sent",),
        effects=(("sent", 1, "assume_sent"),),
    ),
    case(
        "not_in_doubt under a pause",
        paused(awaiting()),
        resolves("resend"),
        "ignored: not_in_doubt",
    ),
]

UNDER_A_PAUSE = [
    case(
        "stage_advanced: its message waits",
        paused(awaiting()),
        says("next"),
        "applied: stage_advanced",
        stage="demo",
        wait=ZERO,
        history=("stage_advanced",),
    ),
    case(
        "escalated: the pause ends when it was to end",
        paused(awaiting(), until=NOW + HOUR),
        update("escalate"),
        "applied: escalated",
        wait=ESCALATION_DEADLINE,
        history=("escalated",),
    ),
    case(
        "stage_advanced: a message held back is cancelled",
        paused(reserving(awaiting())),
        says("next"),
        "applied: stage_advanced",
        stage="demo",
        wait=ZERO,
        slot=None,
        history=("stage_advanced",),
        effects=(("cancelled", 1, "stage_advanced"),),
    ),
    case(
        "reply_stayed: the rest of the wait is kept",
        paused(awaiting(wait_until=NOW - DAY), rest=5 * HOUR),
        says("away"),
        "applied: reply_stayed",
        wait=5 * HOUR,
        history=("reply_stayed",),
    ),
    case(
        "escalated",
        paused(awaiting()),
        update("escalate"),
        "applied: escalated",
        wait=ESCALATION_DEADLINE,
        history=("escalated",),
    ),
    case(
        "reply_noted",
        paused(escalated()),
        says("next"),
        "applied: reply_noted",
        history=("reply_noted",),
    ),
    case(
        "send_reserved: it waits, too",
        paused(awaiting()),
        update("send"),
        "applied: send_reserved",
        slot=("reserved", None, 1),
        history=("send_reserved",),
    ),
    case("waits", paused(sending(awaiting())), update("send"), None),
    case(
        "reported: nothing changes",
        paused(awaiting()),
        update(DELIVERED),
        "applied: reported",
        effects=(("delivered", 0),),
    ),
    case(
        "reported: what was held is settled",
        paused(unknown(awaiting())),
        update(DELIVERED),
        "applied: reported",
        wait=4 * DAY,
        due=30 * DAY,
        slot=None,
        history=("follow_up_sent",),
        effects=(("sent", 1, None), ("delivered", 1)),
    ),
    case(
        "completed: opted_out",
        paused(awaiting()),
        update("opted_out"),
        "applied: completed",
        **ends("opted_out"),
        effects=(("suppress", ADDRESS),),
    ),
    case(
        "completed: goal_reached",
        paused(sending(awaiting())),
        update("goal_reached"),
        "applied: completed",
        **ends("goal_reached", LEFT),
    ),
    case(
        "cancelled",
        paused(awaiting()),
        update("cancel"),
        "applied: cancelled",
        status="cancelled",
        exit_reason="cancelled",
        wait=None,
        due=None,
        history=("cancelled",),
    ),
    case(
        "superseded", paused(held(reply=reply(id="newer"))), classified("no"), "ignored: superseded"
    ),
    case("not_escalated", paused(held()), update("escalation_resolved"), "ignored: not_escalated"),
]


@pytest.mark.parametrize(ROW, REPLIES)
def test_a_reply(given, when, at, answer, changes):
    """A reply leads where the first rule that names its intent says."""
    transition = told_as_expected(given, when, at, answer, changes)
    if transition.answer.status is UpdateStatus.APPLIED:
        heard = transition.conversation.reply
        assert (heard.id, heard.at, heard.text) == (when.id, when.at, when.text)
        assert heard.intent == (when.intent or "unclassified")
        led_nowhere = {Reason.REPLY_HELD, Reason.REPLY_STAYED, Reason.REPLY_NOTED}
        assert heard.settled == (transition.reason not in led_nowhere)


@pytest.mark.parametrize(ROW, CLASSIFICATIONS)
def test_a_late_classification(given, when, at, answer, changes):
    """What was held, or has stayed, can still be classified; it is no new reply."""
    transition = told_as_expected(given, when, at, answer, changes)
    if transition.answer.status is UpdateStatus.APPLIED:
        heard = transition.conversation.reply
        assert (heard.id, heard.text) == (given.reply.id, given.reply.text)
        assert heard.intent == (when.intent or "unclassified")


@pytest.mark.parametrize(ROW, SENDS)
def test_a_send(given, when, at, answer, changes):
    """What the agent wrote leaves as it stands, under the key of the answer."""
    transition = told_as_expected(given, when, at, answer, changes)
    slot = transition.conversation.slot
    if transition.reason is not Reason.SEND_RESERVED:
        assert transition.answer is None or transition.answer.message_id is None
        return
    assert transition.answer.message_id == slot.key(given.id)
    assert (slot.text, slot.by, slot.then) == (when.message, when.id, when.then)
    assert (slot.decided_at, slot.due_at, slot.send_before) == (NOW, NOW, None)
    assert slot.reply == transition.conversation.reply
    assert slot.reply == (given.reply and evolve(given.reply, settled=True))
    assert slot.in_reply_to == given.last_message
    assert transition.conversation.visit == evolve(given.visit, follow_ups_dropped=True)


@pytest.mark.parametrize(ROW, REPORTS)
def test_a_delivery_report(given, when, at, answer, changes):
    """It goes to the ledger, and settles the message that nobody else can say anything about."""
    transition = told_as_expected(given, when, at, answer, changes)
    if transition.effects:
        *recorded, report = transition.effects
        key = when.message_id or f"{KEY}/{changes['effects'][-1][1]}"
        assert report == Report(key=key, status=MessageStatus.DELIVERED, at=when.at)
        for record in recorded:
            assert (record.slot, record.at) == (given.slot, when.at)


@pytest.mark.parametrize(ROW, BOUNCES)
def test_a_bounce(given, when, at, answer, changes):
    """A hard one suppresses, in whatever state the conversation is, and ends it."""
    suppresses(told_as_expected(given, when, at, answer, changes), when)


@pytest.mark.parametrize(ROW, OPT_OUTS)
def test_an_opt_out(given, when, at, answer, changes):
    """It suppresses, in whatever state the conversation is, and ends it."""
    suppresses(told_as_expected(given, when, at, answer, changes), when)


def suppresses(transition, when):
    """See that a suppression says where it comes from."""
    for effect in transition.effects:
        if isinstance(effect, Suppress):
            written = effect.suppression
            assert (written.reason, written.at, written.by) == (when.kind, when.at, when.id)
        if isinstance(effect, Report):
            assert effect.at == when.at


@pytest.mark.parametrize(ROW, ORDERS)
def test_an_order(given, when, at, answer, changes):
    """Escalate, resolve, goal, cancel, retry."""
    transition = told_as_expected(given, when, at, answer, changes)
    for entry in transition.conversation.history:
        assert (entry.by, entry.at) == (when.id, NOW)


@pytest.mark.parametrize(ROW, PAUSES)
def test_a_pause(given, when, at, answer, changes):
    """Waits stand still, the rest of them runs on; an escalation's deadline does not wait."""
    told_as_expected(given, when, at, answer, changes)


@pytest.mark.parametrize(ROW, UNDER_A_PAUSE)
def test_under_a_pause(given, when, at, answer, changes):
    """Updates are applied as if there were no pause, and the pause is put back."""
    transition = told_as_expected(given, when, at, answer, changes)
    after = transition.conversation
    if after.is_open:
        assert after.status is S.PAUSED
        assert after.pause.until == given.pause.until
        assert after.status_since == given.status_since


@pytest.mark.parametrize(ROW, RESOLVED)
def test_a_humans_word_on_a_doubt(given, when, at, answer, changes):
    """Only what is held for it is sent again, or taken for sent."""
    transition = told_as_expected(given, when, at, answer, changes)
    assert transition.answer.message_id is None
    for record in transition.effects:
        assert (record.slot, record.at, record.error) == (given.slot, NOW, None)
    if transition.reason is Reason.MESSAGE_SENT:
        assert transition.conversation.last_message == given.slot.ref()


def test_a_resend_has_all_attempts_again_and_keeps_its_doubt():
    """Under the same key: earlier attempts may have been accepted, and count no more."""
    given = unknown(awaiting(), attempts=4, spared=1)
    after = tell(given, resolves("resend")).conversation
    changed = {"state": SlotState.RESERVED, "until": NOW, "spared": 4}
    assert after.slot == evolve(given.slot, **changed)
    assert after.slot.uncertain
    made = after
    for attempt in range(1, 6):
        at = scene(now=made.due_at)
        marked = pass_on(made, at=at).conversation
        assert marked.slot.attempts == 4 + attempt
        made = come_of(marked, "retry", at).conversation
    assert made.exit_reason == "failed_retries"


def test_a_resend_that_is_repeated_sends_once_more_and_not_twice():
    """The same update again is known; another one finds no doubt that a human is asked about."""
    after = tell(unknown(awaiting()), resolves("resend", id="u1")).conversation
    assert tell(after, resolves("resend", id="u1")).reason is Reason.REPEATED
    assert tell(after, resolves("assume_sent", id="u2")).reason is Reason.NOT_IN_DOUBT


def test_a_resend_leaves_at_once():
    """The answer and the mark are one write."""
    result = pass_on(unknown(awaiting()), resolves("resend"))
    assert [reason.value for reason in result.reasons] == ["message_resent", "message_marked"]
    slot = result.conversation.slot
    assert (slot.state, slot.attempts, slot.uncertain) == (SlotState.SENDING, 2, True)


def test_a_resend_waits_at_a_closed_gate_like_everything_else():
    """A human's word opens no circuit."""
    gates = {"email": Gate(until=NOW + HOUR, why=WaitingFor.CIRCUIT)}
    result = pass_on(unknown(awaiting()), resolves("resend"), at=scene(gates=gates))
    slot = result.conversation.slot
    assert (slot.state, slot.held, slot.uncertain) == (SlotState.RESERVED, WaitingFor.CIRCUIT, True)
    assert result.conversation.waiting_for == (WaitingFor.REPLY, WaitingFor.CIRCUIT)


EVERYWHERE = [
    pytest.param(place, kind, id=f"{kind}, {place}") for place in PLACES for kind in UpdateKind
]


@pytest.mark.parametrize(("place", "kind"), EVERYWHERE)
def test_every_update_is_answered_everywhere(place, kind):
    """Every kind in every place has an answer; only a `send` ever waits, for a hand-off's end."""
    given = PLACES[place]
    transition = tell(given, update(kind))
    in_flight = given.slot and given.slot.state.value != "reserved"
    waits = kind is UpdateKind.SEND and in_flight and given.is_open
    assert (transition.answer is None) == bool(waits)
    if given.is_open:
        assert waits or transition.reason is not Reason.FINAL
    elif kind not in {"delivered", "bounced", "opted_out", "retry"}:
        assert transition.reason is Reason.FINAL
        assert transition.effects == ()


UNDER_PAUSES = [
    pytest.param(place, kind, id=f"{kind}, {place}")
    for place in OPEN_PLACES
    for kind in UpdateKind
    if kind not in {UpdateKind.PAUSE, UpdateKind.RESUME}
]


@pytest.mark.parametrize(("place", "kind"), UNDER_PAUSES)
def test_a_pause_delays_and_does_nothing_else(place, kind):
    """Paused, told, resumed: the same as told without a pause, where no time has passed."""
    given, told = OPEN_PLACES[place], update(kind)
    plain = tell(given, told)
    during = tell(tell(given, update("pause")).conversation, told)
    assert (during.reason, during.answer) == (plain.reason, plain.answer)
    written = seen(given, given, during.effects).effects
    assert written == seen(given, given, plain.effects).effects
    if not plain.conversation.is_open:
        assert seen(given, during.conversation).exit_reason == plain.conversation.exit_reason
        return
    assert during.conversation.status is S.PAUSED
    assert during.conversation.waiting_for[0] is WaitingFor.RESUME
    after = tell(during.conversation, update("resume")).conversation
    slot = plain.conversation.slot
    if slot and slot.state.value == "reserved":
        slot = evolve(slot, until=NOW)  # what a pause held back leaves at its end
    for name in ("status", "stage", "wait_until", "visit", "reply", "message_count", "unsent"):
        assert getattr(after, name) == getattr(plain.conversation, name)
    assert after.slot == slot


@pytest.mark.parametrize(("place", "kind"), EVERYWHERE)
def test_a_campaigns_pause_changes_no_answer(place, kind):
    """Updates are applied while the campaign is paused."""
    plain = tell(PLACES[place], update(kind))
    during = tell(PLACES[place], update(kind), scene(**paused_campaign()))
    assert (during.reason, during.answer) == (plain.reason, plain.answer)
    assert during.effects == plain.effects


def test_every_kind_has_a_handler():
    """The table is complete."""
    assert set(HANDLERS) == set(UpdateKind)


def test_an_applied_update_is_remembered():
    """What took effect is remembered by id, the last ones only; what changed nothing is not."""
    given = awaiting(applied=tuple(f"u{n}" for n in range(MAX_APPLIED)))
    identity = UUID(int=7)
    after = tell(given, update("reply", id=identity, intent="away")).conversation
    assert after.applied == (*given.applied[1:], identity)
    assert tell(given, update("resume")).conversation == given
    assert tell(given, update("delivered")).conversation == given


def test_a_repeated_update_changes_nothing():
    """An update whose id is known is answered as applied, without effects, even after the end."""
    for given in (awaiting(applied=("u",)), ended(applied=("u",))):
        for kind in UpdateKind:
            transition = tell(given, update(kind, id="u"))
            assert transition.conversation is given
            assert transition.answer.status is UpdateStatus.APPLIED
            assert transition.answer.reason == Reason.REPEATED
            assert transition.effects == ()


def test_the_history_says_who_when_and_where():
    """An entry has the update's id, the server's time and the stage that it happened in."""
    later = scene(now=NOW + HOUR)
    after = tell(awaiting(), update("reply", id="u", intent="next"), later).conversation
    entry = HistoryEntry(at=NOW + HOUR, reason="stage_advanced", stage="demo", by="u")
    assert after.history == (entry,)
    assert after.status_since == NOW + HOUR


def test_the_history_keeps_the_last_entries():
    """The history is bounded: the oldest entry gives way."""
    old = tuple(HistoryEntry(at=NOW, reason="opened", stage="s", by=str(n)) for n in range(50))
    after = tell(awaiting(history=old), says("away")).conversation
    assert len(after.history) == MAX_HISTORY
    assert after.history[:-1] == old[1:]
    assert after.history[-1].reason == "reply_stayed"


def test_entering_a_stage_begins_anew():
    """The visit is blank, the reply is kept for the message, what the agent wrote is forgotten."""
    given = awaiting(3, unsent=TEXT)
    after = tell(given, says("again")).conversation
    assert after.visit == Visit()
    assert after.unsent is None
    assert after.reply.intent == "again"
    assert after.last_message == given.last_message


@pytest.mark.parametrize("told", [says(), says("human")], ids=["held", "escalated"])
def test_what_the_agent_could_not_send_is_forgotten_when_it_is_handed_over(told):
    """Whoever has the conversation next says what is sent."""
    assert tell(pending(unsent=TEXT), told).conversation.unsent is None
    assert tell(pending(unsent=TEXT), says("away")).conversation.unsent == TEXT


def test_a_send_forgets_what_could_not_be_sent():
    """The agent has written something else."""
    after = tell(awaiting(unsent=TEXT), update("send", message=AgentText(body="New"))).conversation
    assert after.unsent is None
    assert after.slot.text.body == "New"


def test_a_send_replaces_the_stages_own_message():
    """Before the stage's own message was sent, what the agent writes goes in its place."""
    after = tell(pending(), update("send")).conversation
    assert after.visit == Visit(messages=1, follow_ups_dropped=True)
    assert after.slot.key(after.id) == send_key(after.id, "intro", 0)
    assert after.slot.thread is None


def test_a_send_takes_the_stages_channel():
    """It is written to the first channel of the stage whose address the recipient has."""
    given = awaiting(recipient=TWO)
    own = template(stages=(stage(channel=("post", "sms", "email")),))
    after = tell(given, update("send"), scene(template=own, channels=BOTH)).conversation
    assert after.slot.channel == "sms"


def test_a_message_in_flight_becomes_unwanted_when_the_conversation_moves_on():
    """Its outcome leads nowhere any more; a message that goes on stays wanted."""
    given = sending(awaiting())
    for told in (says("next"), says("no"), says(), update("cancel"), update("escalate")):
        slot = tell(given, told).conversation.slot
        assert slot == evolve(given.slot, wanted=False)
    for told in (says("away"), update("pause")):
        assert tell(given, told).conversation.slot == given.slot


@pytest.mark.parametrize("kind", ["unknown", "retry"])
def test_what_was_reported_during_its_hand_off_is_sent(kind):
    """Whatever the channel then says or does not say: nothing is held, and nothing sent again."""
    given = tell(sending(awaiting()), update("delivered")).conversation
    assert given.slot == evolve(sending(awaiting()).slot, reported=True)
    after = come_of(given, kind, scene(policy=OnUnknown.HOLD), error="cut").conversation
    assert (after.slot, after.status, after.last_message.n) == (None, S.AWAITING_REPLY, 1)
    refused = come_of(given, "refused", error="HTTP 400").conversation
    assert refused.exit_reason == "failed_permanent"


def test_staying_wants_the_message_in_flight_again():
    """As if the reply had not come: its outcome counts again."""
    given = sending(held())
    assert tell(given, classified("away")).conversation.slot == evolve(given.slot, wanted=True)


def test_staying_does_not_want_what_is_in_flight_of_another_stage():
    """The stage was left, and another one entered, while the message was in flight."""
    given = sending(awaiting())
    moved = tell(given, update("reply", id="reply-1", intent="again")).conversation
    asked = tell(moved, update("reply", id="reply-2")).conversation
    after = tell(asked, classified("away", "reply-2")).conversation
    assert after.slot == evolve(given.slot, wanted=False)
    assert after.status is S.PENDING


def test_a_retry_forgets_the_failure_and_the_pauses_before_it():
    """It goes on as if nothing had been: no failures, no pause, none of the campaign's pauses."""
    pause = paused(awaiting()).pause  # of one that was parked while it was paused
    failed = ended("failed", failures=3, last_error="no", unsent=TEXT, visit=WROTE, pause=pause)
    at = scene(paused_total=5000)
    after = tell(failed, update("retry"), at).conversation
    assert (after.failures, after.last_error, after.exit_reason) == (0, None, None)
    assert (after.pause_seen, after.unsent) == (5000, TEXT)


def test_a_retry_keeps_a_wait_that_had_not_ended():
    """What was parked, rather than ended, stands where it stood."""
    parked = ended("failed", wait_until=NOW + DAY)
    after = on_update(parked, update("retry"), scene()).conversation
    assert (after.wait_until, after.due_at) == (NOW + DAY, NOW + DAY)


def test_a_pause_remembers_what_it_interrupted():
    """The status, the rest of the wait in milliseconds, the end."""
    until = NOW + HOUR
    pause = tell(awaiting(), update("pause", until=until)).conversation.pause
    assert (pause.status, pause.rest, pause.until) == (S.AWAITING_REPLY, 86_400_000, until)
    pause = tell(escalated(), update("pause")).conversation.pause
    assert (pause.status, pause.rest, pause.until) == (S.ESCALATED, None, None)
    late = awaiting(wait_until=NOW - HOUR, due_at=NOW - HOUR)
    assert tell(late, update("pause")).conversation.pause.rest == 0


@pytest.mark.parametrize(
    ("intent", "then"),
    [("no", COMPLETE), ("x", HOLD), ("", HOLD)],
    ids=["named", "not named", "empty"],
)
def test_the_first_rule_that_matches_decides(intent, then):
    """A rule without intents matches every reply; intents compare exactly."""
    rules = (rule(COMPLETE, "yes", "no"), rule(HOLD), rule(ESCALATE, "x"))
    assert rule_for(stage(on_reply=rules), intent) == then


def test_a_reply_that_no_rule_names_completes():
    """Without a rule for everything, what is not named ends the conversation."""
    assert rule_for(stage(on_reply=(rule(STAY, "away"),)), "Away") == COMPLETE


def test_expected_rows_notice_a_difference():
    """The rows compare everything: a row that names nothing expects that nothing has changed."""
    after = tell(awaiting(), says("next")).conversation
    assert seen(awaiting(), after) != expected(awaiting())
