"""What a template must agree on with itself and with the deployment."""

from datetime import timedelta

import pytest
from attrs import evolve

from handlers.template_check import check_template
from schemas.action import ADVANCE, COMPLETE, ESCALATE, HOLD, STAY, go_to
from schemas.converter import read_template
from schemas.template import AgentPolicy
from tests.builders import DAY, follow_up, message, rule, stage, template, template_document

CHANNELS = ("email", "log")


def check(*stages, channels=CHANNELS, **changes):
    """Check a template of these stages."""
    return list(check_template(template(stages=stages, **changes), channels))


def test_nothing_wrong():
    """A template whose stages lead to each other, in channels that are there, has no problem."""
    assert check_template(read_template(template_document()), CHANNELS) == ()
    assert not check(
        stage("intro", on_reply=(rule(go_to("end"), "yes"), rule(HOLD)), on_no_reply=ADVANCE),
        stage("second", on_reply=(rule(STAY, "away"), rule(ESCALATE)), channel=("log", "email")),
        stage("end", final=True),
        channel=("email", "log"),
    )


class TestStages:
    def test_same_id(self):
        """Two stages of one id could not be told apart."""
        found = check(stage("a", on_no_reply=ADVANCE), stage("b", on_no_reply=ADVANCE), stage("a"))
        assert found == ["$.template.stages[2].id: expected an id of its own, got 'a' again"]

    def test_go_to_nowhere(self):
        """Every action that names a stage must name one that is there."""
        found = check(
            stage(on_reply=(rule(COMPLETE, "no"), rule(go_to("x"))), on_no_reply=go_to("y")),
            agent=AgentPolicy(then=go_to("z")),
        )
        assert found == [
            "$.template.agent.then.go_to: there is no stage 'z'",
            "$.template.stages[0].on_no_reply.go_to: there is no stage 'y'",
            "$.template.stages[0].on_reply[1].then.go_to: there is no stage 'x'",
        ]

    @pytest.mark.parametrize(
        "first",
        [
            stage("a", on_no_reply=ADVANCE),
            stage("a", on_reply=(rule(ADVANCE),)),
            stage("a", on_reply=(rule(STAY, "x"), rule(go_to("b"), "y"))),
            stage("a", on_no_reply=go_to("b")),
            stage("a", on_reply=(rule(go_to("a")),), on_no_reply=ADVANCE),
        ],
        ids=["silence", "reply", "some reply", "go_to", "back to itself, or on"],
    )
    def test_reached(self, first):
        """A stage is reached by advancing or by name, after a reply or after silence."""
        assert not check(first, stage("b"))

    @pytest.mark.parametrize(
        "first",
        [
            stage("a", on_reply=(rule(HOLD),)),
            stage("a", on_reply=(rule(STAY, "away"), rule(ESCALATE, "human"))),
            stage("a", on_no_reply=ESCALATE),
        ],
        ids=["held", "escalated", "escalated after silence"],
    )
    def test_reached_by_whoever_decides(self, first):
        """The agent or a human may send a conversation on to any stage."""
        assert not check(first, stage("b"), stage("c"))

    def test_reached_by_whoever_decides_later(self):
        """A stage that holds leads to every other, if it is reached itself."""
        holds = stage("c", on_reply=(rule(HOLD),))
        assert not check(stage("a", on_no_reply=go_to("c")), stage("b"), holds)
        assert check(stage("a"), stage("b"), holds) == [
            "$.template.stages[1]: stage 'b' can never be reached",
            "$.template.stages[2]: stage 'c' can never be reached",
        ]

    def test_not_reached_by_an_agent_who_is_never_asked(self):
        """What comes after the agent's deadline leads nowhere where no stage holds."""
        late = AgentPolicy(then=ADVANCE)
        assert check(stage("a", on_reply=(rule(STAY),)), stage("b"), agent=late) == [
            "$.template.stages[1]: stage 'b' can never be reached"
        ]

    def test_never_reached(self):
        """A stage that no rule leads to is named, and so is one that only it leads to."""
        found = check(
            stage("a", on_reply=(rule(go_to("a")),)),
            stage("b", on_no_reply=ADVANCE),
            stage("c", on_no_reply=go_to("a")),
        )
        assert found == [
            "$.template.stages[1]: stage 'b' can never be reached",
            "$.template.stages[2]: stage 'c' can never be reached",
        ]

    def test_final_leads_nowhere(self):
        """The rules of a final stage are never asked."""
        found = check(stage("a", final=True, on_no_reply=ADVANCE), stage("b"))
        assert found == ["$.template.stages[1]: stage 'b' can never be reached"]

    def test_advancing_past_the_last(self):
        """Advancing past the last stage completes, and is no problem."""
        assert not check(stage("a", on_no_reply=ADVANCE))


class TestChannels:
    def test_unknown(self):
        """A channel that the deployment lacks is named, wherever it stands, with those it has."""
        found = check(
            stage(
                channel=("email", "fax"), follow_ups=(follow_up(), follow_up(channel=("pager",)))
            ),
            channel=("sms",),
        )
        assert found == [
            "$.template.channel: no channel 'sms' is configured; configured: email, log",
            "$.template.stages[0].channel: no channel 'fax' is configured; configured: email, log",
            (
                "$.template.stages[0].follow_ups[1].channel: no channel 'pager' is configured;"
                " configured: email, log"
            ),
        ]

    def test_none_configured(self):
        """A deployment without any channel says once what to set."""
        found = check(stage(channel=("fax",)), channels=())
        assert found == ["$.template.channel: no channel is configured: set CHANNEL_<NAME>"]


class TestTimes:
    def test_too_long(self):
        """Follow-ups that the campaign's end would cut off are a problem; silence after them is none."""
        late = (follow_up(after=20 * DAY), follow_up(after=10 * DAY))
        slow = stage("b", follow_ups=late)
        first = stage("a", on_no_reply=ADVANCE)
        assert check(first, slow) == [
            (
                "$.template.stages[1].follow_ups: the last one is due after 30d,"
                " when max_duration 30d is over"
            )
        ]
        in_time = (late[0], follow_up(after=10 * DAY - timedelta(milliseconds=1)))
        assert not check(first, evolve(slow, follow_ups=in_time, reply_within=40 * DAY))

    def test_without_follow_ups(self):
        """A wait alone may last as long as the campaign lets it."""
        assert not check(stage(reply_within=40 * DAY))


def test_texts():
    """Every text is checked as Liquid, and its problem has its path."""
    broken = "{% nonsense %}"
    found = check(
        stage(
            message=message(subject=broken, html=broken, from_=broken, reply_to=broken),
            follow_ups=(follow_up(message=message(subject=None, body="{{ recipient.x")),),
        )
    )
    assert [problem.split(": ")[0] for problem in found] == [
        "$.template.stages[0].message.subject",
        "$.template.stages[0].message.html",
        "$.template.stages[0].message.from",
        "$.template.stages[0].message.reply_to",
        "$.template.stages[0].follow_ups[0].message.body",
    ]
