"""What a channel is given of a slot, and what stops it at the last moment."""

from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from handlers.hand_off import hand_off_of, recipient_context
from handlers.last_look import Seen, stops, stops_campaign, verdict
from handlers.rendering import RenderError
from schemas.action import STAY
from schemas.campaign import CampaignStatus
from schemas.conversation import AgentText, ConversationStatus, MessageRef, Pause, Thread
from schemas.hand_off import ChannelSpec, HandOff, OutcomeKind
from schemas.message import LedgerEntry, MessageStatus
from schemas.template import MessageTemplate
from schemas.update import CampaignUpdateKind, UpdateKind
from tests.builders import (
    DAY,
    NOW,
    REQUEST,
    campaign,
    conversation,
    follow_up,
    message,
    recipient,
    reply,
    slot,
    stage,
    template,
)

MS = timedelta(milliseconds=1)
CHANNELS = {
    "email": ChannelSpec(name="email", address_kind="email"),
    "sms_urgent": ChannelSpec(name="sms_urgent", address_kind="sms"),
}
BEFORE = MessageRef(stage="intro", n=0, channel="email")
FIRST = slot()
SECOND = slot(n=1, step=1, in_reply_to=BEFORE, thread=Thread(decided_at=NOW - 2 * DAY))
WRITTEN = evolve(SECOND, step=None, text=AgentText(body="It is 12."), by="send-1", then=STAY)


def render(own, *, to=None, follow_ups=None, made=None, **texts):
    """Render a slot of a stage with these texts."""
    follow_ups = follow_ups or (follow_up(),)
    stages = (stage(message=message(**texts), follow_ups=follow_ups),)
    made = made or campaign(template=template(stages=stages))
    there = conversation(recipient=to or recipient())
    rendered = hand_off_of(there, own, made, CHANNELS)
    assert rendered == hand_off_of(there, own, made, CHANNELS)
    return rendered


class TestHandOff:
    def test_whole(self):
        """A channel is given the texts, whose they are, where they go and what they follow."""
        made = campaign()
        key = conversation().id
        to = recipient(address={"email": " Ada@Example.COM "}, locale="de-DE")
        own = evolve(SECOND, send_before=NOW + DAY, decided_at=NOW + MS, by="send-1")
        assert render(own, to=to) == HandOff(
            key=f"{key}/intro/1",
            campaign_id=made.id,
            conversation_id=key,
            recipient_id="r0",
            channel="email",
            to="ada@example.com",
            subject="Re: Your plan",
            body="Still there?",
            html=None,
            from_=None,
            reply_to=None,
            locale="de-DE",
            in_reply_to=f"{key}/intro/0",
            send_before=NOW + DAY,
            at=NOW + MS,
            by="send-1",
        )

    def test_first(self):
        """A stage's own message follows none, and has the subject that it says, or none."""
        first = render(FIRST)
        assert (first.subject, first.in_reply_to, first.send_before) == ("Your plan", None, None)
        assert render(FIRST, subject=None).subject is None
        assert render(evolve(FIRST, thread=SECOND.thread), subject="").subject == ""

    def test_address_of_the_channels_kind(self):
        """A channel sends to the kind of address that it is configured for."""
        to = recipient(address={"email": "ada@example.com", "sms": "+49 151 1234567"})
        rendered = render(evolve(FIRST, channel="sms_urgent"), to=to)
        assert (rendered.channel, rendered.to) == ("sms_urgent", "+491511234567")


class TestContext:
    def test_recipient(self):
        """An attribute wins over what a recipient has by itself; what is not there is empty."""
        one = recipient(locale="de", timezone="Asia/Tokyo", attributes={"id": "A-1", "x": 1})
        own = {"id": "A-1", "locale": "de", "timezone": "Asia/Tokyo", "x": 1}
        assert recipient_context(one, template()) == own
        bare = recipient_context(recipient(attributes={}), template(timezone="Europe/Berlin"))
        assert bare == {"id": "r0", "locale": "", "timezone": "Europe/Berlin"}

    def test_variables(self):
        """A text may speak of recipient, campaign, stage and the last reply."""
        body = (
            "{{ recipient.first_name }} {{ recipient.id }} {{ campaign.name }} {{ campaign.type }}"
            " {{ campaign.metadata.team }} {{ stage.id }} [{{ reply.text }}|{{ reply.intent }}]"
        )
        stages = (stage(message=message(body=body)), stage("demo", message=message(body=body)))
        made = campaign(template=template(stages=stages), metadata={"team": "eu"})
        assert render(FIRST, made=made).body == "Ada r0 Renewal, December renewal eu intro [|]"
        later = slot(stage="demo", reply=reply())
        expected = "Ada r0 Renewal, December renewal eu demo [Yes, please|interested]"
        assert render(later, made=made).body == expected
        said = dict.fromkeys(("subject", "html", "from_", "reply_to"), "{{ reply.intent }}")
        answer = render(slot(reply=reply()), **said)
        headers = [answer.subject, answer.html, answer.from_, answer.reply_to]
        assert headers == ["interested"] * 4

    @pytest.mark.parametrize(
        ("own", "templates", "shown"),
        [
            (None, "UTC", "23:30"),
            (None, "Europe/Berlin", "00:30"),
            ("America/New_York", "Europe/Berlin", "18:30"),
        ],
        ids=["default", "the template's", "the recipient's"],
    )
    def test_zone(self, own, templates, shown):
        """Dates are shown in the recipient's zone: in texts, headers and the thread's subject."""
        clock = "{{ now | date: '%H:%M' }}"
        texts = message(subject=clock, body=clock, html=clock, from_=clock, reply_to=clock)
        stages = (stage(message=texts, follow_ups=(follow_up(),)),)
        made = campaign(template=template(stages=stages, timezone=templates))
        at = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
        one = recipient(timezone=own)
        first = render(evolve(FIRST, decided_at=at), made=made, to=one)
        assert [first.subject, first.body, first.html, first.from_, first.reply_to] == [shown] * 5
        second = evolve(SECOND, thread=Thread(decided_at=at))
        assert render(second, made=made, to=one).subject == f"Re: {shown}"

    def test_when_it_was_decided(self):
        """`now` is when the message was decided, not when it is due or handed off."""
        own = evolve(FIRST, decided_at=NOW + DAY, due_at=NOW + 2 * DAY, until=NOW + 3 * DAY)
        assert render(own, body="{{ now | date: '%d' }}").body == "24"


class TestSubject:
    @pytest.mark.parametrize(
        ("own", "said", "stages", "subject"),
        [
            (SECOND, None, "Your plan", "Re: Your plan"),
            (SECOND, "", "Your plan", "Re: Your plan"),
            (SECOND, "{% if false %}x{% endif %}", "Your plan", "Re: Your plan"),
            (SECOND, "Last call, {{ recipient.first_name }}", "Your plan", "Last call, Ada"),
            (SECOND, None, None, None),
            (SECOND, None, "", None),
            (evolve(SECOND, thread=None), None, "Your plan", None),
        ],
        ids=[
            "none",
            "empty",
            "rendered to nothing",
            "its own",
            "the stage has none",
            "the stage's is empty",
            "the stage's message was not sent",
        ],
    )
    def test_of_a_follow_up(self, own, said, stages, subject):
        """Without a subject of its own it is in the thread of the stage's message, if that has one."""
        after = follow_up(message=MessageTemplate(body="Still there?", subject=said))
        assert render(own, subject=stages, follow_ups=(after,)).subject == subject

    def test_of_the_thread(self):
        """The thread's subject is what it was then: its time and its reply, not today's."""
        subject = "{{ now | date: '%d' }} {{ reply.intent }} {{ stage.id }}"
        thread = Thread(decided_at=NOW - 2 * DAY, reply=reply(intent="before"))
        own = evolve(SECOND, thread=thread, reply=reply(intent="later"))
        body = follow_up(message=MessageTemplate(body="{{ now | date: '%d' }} {{ reply.intent }}"))
        rendered = render(own, subject=subject, follow_ups=(body,))
        assert (rendered.subject, rendered.body) == ("Re: 21 before intro", "23 later")
        alone = evolve(own, thread=Thread(decided_at=NOW))
        assert render(alone, subject=subject).subject == "Re: 23  intro"

    def test_is_one_line(self):
        """Nothing of a recipient begins another header."""
        one = recipient(attributes={"first_name": "Ada\r\nBcc: x@example.com"})
        texts = dict.fromkeys(("subject", "from_", "reply_to"), "{{ recipient.first_name }}")
        rendered = render(FIRST, to=one, **texts)
        line = "Ada Bcc: x@example.com"
        assert [rendered.subject, rendered.from_, rendered.reply_to] == [line] * 3


class TestTexts:
    def test_escaped(self):
        """What a recipient is called is escaped in HTML, and stands as it is in plain text."""
        one = recipient(attributes={"first_name": "<b>Ada & Co</b>"})
        texts = dict.fromkeys(("subject", "body", "html", "from_"), "{{ recipient.first_name }}")
        rendered = render(FIRST, to=one, **texts)
        assert rendered.html == "&lt;b&gt;Ada &amp; Co&lt;/b&gt;"
        assert [rendered.subject, rendered.body, rendered.from_] == ["<b>Ada & Co</b>"] * 3

    def test_each_follow_up(self):
        """A slot's step says which of the stage's messages it is."""
        texts = [MessageTemplate(body=f"{number}", html=f"<{number}>") for number in (1, 2)]
        after = tuple(follow_up(message=text) for text in texts)
        seen = [render(evolve(SECOND, step=step), follow_ups=after) for step in (0, 1, 2)]
        bodies = [("Hello", None), ("1", "<1>"), ("2", "<2>")]
        assert [(each.body, each.html) for each in seen] == bodies

    def test_of_the_agent(self):
        """What the agent wrote is sent as it stands, not as a template."""
        raw = "{{ recipient.first_name }} <b> {% x"
        text = AgentText(subject=raw, body=raw, html=raw)
        rendered = render(evolve(WRITTEN, text=text))
        assert [rendered.subject, rendered.body, rendered.html] == [raw] * 3
        assert rendered.by == "send-1"

    @pytest.mark.parametrize(
        ("stages", "thread", "subject"),
        [
            ("Your plan", SECOND.thread, "Re: Your plan"),
            (None, SECOND.thread, None),
            ("Your plan", None, None),
        ],
    )
    @pytest.mark.parametrize("said", [None, ""])
    def test_of_the_agent_without_subject(self, said, stages, thread, subject):
        """A text of the agent without a subject is in the stage's thread, like a follow-up."""
        own = evolve(WRITTEN, text=AgentText(body="It is 12.", subject=said), thread=thread)
        rendered = render(own, subject=stages)
        assert (rendered.subject or None, rendered.body, rendered.html) == (
            subject,
            "It is 12.",
            None,
        )

    @pytest.mark.parametrize(
        ("own", "says", "expected"),
        [
            (SECOND, {}, ("sales@example.com", "Ada@example.com")),
            (SECOND, {"from_": "", "reply_to": ""}, ("sales@example.com", "Ada@example.com")),
            (SECOND, {"from_": "me@example.com"}, ("me@example.com", "Ada@example.com")),
            (SECOND, {"reply_to": "{{ stage.id }}@x"}, ("sales@example.com", "intro@x")),
            (WRITTEN, {"from_": "me@example.com"}, ("sales@example.com", "Ada@example.com")),
        ],
        ids=["the stage's", "empty", "from", "reply_to", "of the agent: the stage's"],
    )
    def test_from_and_reply_to(self, own, says, expected):
        """Who a message is from and who is answered: its own, or else the stage's, rendered."""
        after = follow_up(message=MessageTemplate(body="Still there?", **says))
        rendered = render(
            own,
            follow_ups=(after,),
            from_="sales@example.com",
            reply_to="{{ recipient.first_name }}@example.com",
        )
        assert (rendered.from_, rendered.reply_to) == expected

    @pytest.mark.parametrize("name", ["subject", "body", "html", "from_", "reply_to"])
    def test_error(self, name):
        """A text that cannot be rendered is an error, which quotes nothing of a recipient."""
        text = "{{ recipient.first_name | date: '%d' | plus: recipient.secret.deep }}"
        one = recipient(attributes={"first_name": "Ada", "secret": "s3cret"})
        with pytest.raises(RenderError) as caught:
            render(FIRST, to=one, **{name: text})
        assert "Ada" not in str(caught.value)
        assert "s3cret" not in str(caught.value)


# -- the last look ---------------------------------------------------------------------------------
def looked(**changes):
    """See nothing that is in the way."""
    default = {"now": NOW, "campaign": campaign(), "stopped": False, "suppressed": False}
    return Seen(**default | changes)


def ledger(status):
    """Find an entry of the message in the ledger."""
    there = conversation()
    return LedgerEntry(
        id=FIRST.key(there.id),
        status=status,
        campaign_id=there.campaign_id,
        batch_request_id=REQUEST,
        conversation_id=there.id,
        recipient_id="r0",
    )


PAUSE = Pause(status=ConversationStatus.PENDING, rest=0)
WITHDRAWN, SUPPRESSED = OutcomeKind.WITHDRAWN, OutcomeKind.SUPPRESSED
TOO_LATE, WAS_SENT = OutcomeKind.TOO_LATE, OutcomeKind.WAS_SENT
SENT = ledger(MessageStatus.SENT)
LIMITED = evolve(FIRST, send_before=NOW)


class TestVerdict:
    @pytest.mark.parametrize(
        ("there", "own", "seen"),
        [
            ({}, FIRST, {}),
            ({"deadline_at": NOW + MS}, FIRST, {}),
            ({}, LIMITED, {}),
            ({"status": ConversationStatus.AWAITING_REPLY}, FIRST, {}),
            ({}, FIRST, {"entry": ledger(MessageStatus.CANCELLED)}),
            ({}, FIRST, {"entry": ledger(MessageStatus.FAILED)}),
            ({}, FIRST, {"entry": ledger(MessageStatus.UNKNOWN)}),
        ],
        ids=[
            "nothing",
            "just before the deadline",
            "just before it is too late",
            "a follow-up",
            "cancelled before",
            "failed before",
            "nobody knows",
        ],
    )
    def test_goes(self, there, own, seen):
        """Where nothing is in the way, the message is handed off."""
        assert verdict(conversation(**there), own, looked(**seen)) is None

    @pytest.mark.parametrize(
        ("there", "own", "seen", "kind"),
        [
            ({}, FIRST, {"entry": SENT}, WAS_SENT),
            ({}, FIRST, {"entry": ledger(MessageStatus.DELIVERED)}, WAS_SENT),
            ({}, FIRST, {"entry": ledger(MessageStatus.BOUNCED)}, WAS_SENT),
            ({}, FIRST, {"stopped": True}, WITHDRAWN),
            ({}, FIRST, {"campaign": None}, WITHDRAWN),
            *(
                ({}, FIRST, {"campaign": campaign(status=status)}, WITHDRAWN)
                for status in CampaignStatus
                if status not in {CampaignStatus.ACTIVE, CampaignStatus.PENDING}
            ),
            ({"status": ConversationStatus.COMPLETED}, FIRST, {}, WITHDRAWN),
            ({"status": ConversationStatus.FAILED}, FIRST, {}, WITHDRAWN),
            ({"status": ConversationStatus.CANCELLED}, FIRST, {}, WITHDRAWN),
            ({"pause": PAUSE}, FIRST, {}, WITHDRAWN),
            ({}, evolve(FIRST, wanted=False), {}, WITHDRAWN),
            ({"deadline_at": NOW}, FIRST, {}, WITHDRAWN),
            ({"deadline_at": NOW - DAY}, FIRST, {}, WITHDRAWN),
            ({}, FIRST, {"suppressed": True}, SUPPRESSED),
            ({}, LIMITED, {"now": NOW + MS}, TOO_LATE),
            ({}, LIMITED, {"now": NOW + MS, "suppressed": True}, SUPPRESSED),
            ({"pause": PAUSE}, LIMITED, {"now": NOW + MS, "suppressed": True}, WITHDRAWN),
            (
                {"pause": PAUSE},
                LIMITED,
                {"now": NOW + MS, "suppressed": True, "stopped": True, "entry": SENT},
                WAS_SENT,
            ),
        ],
    )
    def test_stops(self, there, own, seen, kind):
        """The first reason counts: it was sent; it is not wanted now; never to them; too late."""
        found = verdict(conversation(**there), own, looked(**seen))
        assert found is not None
        assert (found.kind, found.error) == (kind, None)


STOPPING = {"reply", "opted_out", "cancel", "goal_reached", "pause", "escalate", "bounced"}


class TestStops:
    @pytest.mark.parametrize("kind", UpdateKind)
    def test_kinds(self, kind):
        """What may mean that a message is not wanted stops it; reports and what goes on do not."""
        assert stops(kind) is (kind.value in STOPPING)
        assert stops(kind.value) is (kind.value in STOPPING)

    @pytest.mark.parametrize("bounce", [None, "hard", "HARD", "", 1, {"a": 1}, ["soft"]])
    def test_bounces(self, bounce):
        """A bounce stops it, also a malformed one; a soft one does not."""
        assert stops("bounced", bounce)
        assert not stops("bounced", "soft")

    @pytest.mark.parametrize("bounce", [None, "hard", "soft"])
    def test_bounce_of_another_kind(self, bounce):
        """The field counts in bounces only."""
        assert stops("reply", bounce)
        assert not stops("delivered", bounce)

    @pytest.mark.parametrize("kind", CampaignUpdateKind)
    def test_kinds_of_campaigns(self, kind):
        """A pause and a cancellation of the campaign stop it."""
        assert stops_campaign(kind.value) is (kind.value in {"pause", "cancel"})
        assert stops_campaign(kind) is stops_campaign(kind.value)

    @pytest.mark.parametrize("kind", [None, 7, {}, {"kind": "pause"}, ["pause"], b"pause", "nope"])
    def test_malformed(self, kind):
        """What is no kind at all stops nothing, for it will be rejected."""
        assert not stops(kind)
        assert not stops(kind, "hard")
        assert not stops_campaign(kind)
