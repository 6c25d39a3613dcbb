"""What a worker sees of a channel: its room, whose turn it is at its gate, and whom it failed."""

from collections import Counter
from datetime import timedelta

import anyio
import pytest
from attrs import frozen

from reactor.watch import MAX_RECENT, Watch, watch_over
from schemas.hand_off import Outcome, OutcomeKind
from tests.builders import NOW

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
K = OutcomeKind


@frozen
class Line:
    """A channel that takes so many messages at once."""

    name: str = "email"
    concurrency: int = 4


def watch(most=100, concurrency=4):
    """Watch a channel with a lease of half a minute."""
    return Watch(channel=Line(concurrency=concurrency), most=most, lease_seconds=30.0)


# -- room ------------------------------------------------------------------------------------------
def test_a_channel_that_nobody_has_tried_has_all_the_room():
    """How fast it is shows with the first message."""
    assert watch(most=100).room == 100


@pytest.mark.parametrize(
    ("seconds", "concurrency", "room"),
    [
        pytest.param(0.001, 4, 100, id="fast: no more than the bound"),
        pytest.param(1.0, 4, 60, id="a second each, four at once: sixty in half a lease"),
        pytest.param(1.0, 1, 15, id="a second each, one at once"),
        pytest.param(10.0, 4, 6, id="ten seconds each"),
        pytest.param(60.0, 4, 4, id="slower than the lease: as many as it takes at once"),
        pytest.param(60.0, 200, 100, id="slow and wide: no more than the bound"),
    ],
)
def test_room_is_what_it_can_take_in_time(seconds, concurrency, room):
    """At its pace, within half of a lease: what is marked beyond would run out of time."""
    seen = watch(most=100, concurrency=concurrency)
    seen.took(seconds)
    assert seen.room == room


def test_what_it_has_in_hand_takes_room():
    """And never more than there is."""
    seen = watch(most=10)
    seen.in_hand = 7
    assert seen.room == 3
    seen.in_hand = 12
    assert seen.room == 0


def test_its_pace_is_a_mean_in_which_the_last_message_counts_a_tenth():
    """One slow message is no slow channel; many are."""
    seen = watch(most=10_000, concurrency=1)
    seen.took(1.0)
    assert seen.room == 15
    seen.took(5.0)
    assert seen.room == int(15 / 1.4)
    for _ in range(200):
        seen.took(5.0)
    assert seen.room == 3


# -- the queue at its gate -------------------------------------------------------------------------
def test_campaigns_at_the_gate_take_turns():
    """Who had one goes behind the others."""
    seen = watch()
    assert seen.next_queued() is None
    for campaign in "abc":
        seen.queued.setdefault(campaign)
    seen.queued.setdefault("a")
    assert "".join(seen.next_queued() for _ in range(7)) == "abcabca"


def test_who_comes_later_has_its_turn_in_the_same_round():
    """Behind those that were there, also behind those that had theirs."""
    seen = watch()
    seen.queued.update(dict.fromkeys("ab"))
    assert seen.next_queued() == "a"
    seen.queued.setdefault("c")
    assert "".join(seen.next_queued() for _ in range(3)) == "bac"
    del seen.queued["b"]
    assert "".join(seen.next_queued() for _ in range(3)) == "aca"


# -- evidence --------------------------------------------------------------------------------------
def came(*kinds, first=0, **fields):
    """Make a batch: recipients one after the other, and what came of their messages."""
    return [(f"r{first + n}", Outcome(kind=K(kind), **fields)) for n, kind in enumerate(kinds)]


def counted(evidence):
    """Say how many recipients there are, and how many failed."""
    return evidence.recipients, evidence.failed


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        pytest.param(kind, found, id=f"{kind}: {word}")
        for word, found, kinds in [
            ("works", (1, 0, True, False), {K.SENT, K.REFUSED}),
            ("fails", (1, 1, False, True), {K.RETRY, K.UNKNOWN, K.CHANNEL_FAILED}),
            (
                "says nothing",
                (0, 0, False, False),
                set(K) - {K.SENT, K.REFUSED, K.RETRY, K.UNKNOWN, K.CHANNEL_FAILED},
            ),
        ]
        for kind in sorted(kinds)
    ],
)
def test_what_an_outcome_says(kind, found):
    """A refusal is about the recipient; too much at once is about us; the rest was not handed off."""
    seen = watch().evidence(came(kind), NOW)
    assert (*counted(seen), seen.works, seen.fails) == found


def test_recipients_are_counted_once():
    """One who is refused again and again says nothing about the channel; the last word counts."""
    seen = watch()
    assert counted(seen.evidence(came("retry") * 20, NOW)) == (1, 1)
    assert counted(seen.evidence(came("sent"), NOW)) == (1, 0)
    assert counted(seen.evidence(came("sent", "unknown"), NOW)) == (2, 1)


def test_evidence_adds_up_over_batches():
    """A batch may be small: what it says is added to the last minute's."""
    seen = watch()
    seen.evidence(came("sent", "retry"), NOW)
    assert counted(seen.evidence(came("retry", "retry", first=2), NOW + SECOND)) == (4, 3)


def test_works_and_fails_are_of_the_batch_alone():
    """What a batch before saw was weighed then."""
    seen = watch()
    first = seen.evidence(came("sent", "retry"), NOW)
    assert (first.works, first.fails) == (True, True)
    second = seen.evidence(came("sent", first=2), NOW)
    assert (second.works, second.fails) == (True, False)
    third = seen.evidence([], NOW)
    assert (third.works, third.fails, *counted(third)) == (False, False, 3, 1)


@pytest.mark.parametrize(
    ("after", "found"),
    [
        pytest.param(MINUTE, (3, 2), id="a minute old: it counts"),
        pytest.param(MINUTE + timedelta(milliseconds=1), (1, 0), id="older: it is forgotten"),
    ],
)
def test_evidence_is_of_the_last_minute(after, found):
    """An outage that is over opens no circuit."""
    seen = watch()
    seen.evidence(came("retry", "retry"), NOW)
    assert counted(seen.evidence(came("sent", first=2), NOW + after)) == found


def test_a_recipient_is_as_old_as_their_last_outcome():
    """Whoever comes again is remembered from then on."""
    seen = watch()
    seen.evidence(came("retry", "retry"), NOW)
    seen.evidence(came("retry"), NOW + MINUTE)
    assert counted(seen.evidence([], NOW + MINUTE + SECOND)) == (1, 1)


def test_no_more_than_so_many_recipients_are_remembered():
    """The oldest give way: the share of the last thousand is exact enough."""
    seen = watch()
    seen.evidence(came(*["retry"] * 10), NOW)
    seen.evidence(came(*["sent"] * (MAX_RECENT - 5), first=10), NOW)
    assert counted(seen.evidence([], NOW)) == (MAX_RECENT, 5)


@pytest.mark.parametrize(
    ("error", "broken"),
    [pytest.param("401", "401", id="why"), pytest.param(None, "it is broken", id="not why")],
)
def test_the_channels_own_word_is_passed_on(error, broken):
    """It needs no second witness."""
    batch = [*came("sent"), *came("channel_failed", first=1, error=error)]
    assert watch().evidence(batch, NOW).broken == broken
    assert watch().evidence(came("retry", error="503"), NOW).broken is None


def test_the_longest_silence_that_was_asked_for_is_passed_on():
    """By those that were too much; a delay of a message's own is none."""
    batch = [
        *came("rate_limited", retry_after=SECOND),
        *came("rate_limited", first=1, retry_after=MINUTE),
        *came("rate_limited", first=2),
        *came("retry", first=3, retry_after=60 * MINUTE),
    ]
    assert watch().evidence(batch, NOW).silence == MINUTE
    assert watch().evidence(batch[2:], NOW).silence is None


def test_after_the_circuit_has_changed_it_begins_anew():
    """What opened it does not open it again as soon as it is closed."""
    seen = watch()
    seen.evidence(came(*["retry"] * 20), NOW)
    seen.begin_anew()
    assert counted(seen.evidence(came("sent"), NOW)) == (1, 0)


async def test_each_channel_is_watched_by_itself():
    """As many at once as it takes, whichever batch they are of."""
    inside = Counter()

    async def enter(name):
        async with watches[name].limiter:
            inside[name] += 1
            await anyio.sleep_forever()

    watches = watch_over({"a": Line("a", 1), "b": Line("b", 7)}, most=9, lease_seconds=30.0)
    assert {name: each.channel.name for name, each in watches.items()} == {"a": "a", "b": "b"}
    async with anyio.create_task_group() as tasks:
        for name in "ab" * 9:
            tasks.start_soon(enter, name)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert inside == {"a": 1, "b": 7}
    watches["a"].in_hand = 9
    assert [watches[name].room for name in "ab"] == [0, 9]
