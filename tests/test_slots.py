"""Places: how many batches and campaigns are in work at once, and who steps aside at a channel."""

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from reactor.slots import Slots
from reactor.store.protocol import Hint, RawDocument, recipients_of
from reactor.turns import MAX_KNOWN, Turns
from tests.builders import conversation


class Bell:
    """Counts how often it rang."""

    def __init__(self):
        self.rang = 0

    def __call__(self):
        self.rang += 1


@pytest.fixture
def bell():
    """Give the bell that wakes the dispatcher."""
    return Bell()


# -- slots -----------------------------------------------------------------------------------------
async def test_so_many_batches_are_in_work(bell):
    """A place is free until all are taken, and rings when it is free again."""
    slots = Slots(total=2, wake=bell)
    slots.take()
    assert slots.free
    slots.take()
    assert (slots.free, bell.rang) == (False, 0)
    slots.give()
    assert (slots.free, bell.rang) == (True, 1)


async def test_a_batch_at_its_channel_holds_nobody_up(bell):
    """Its place is free as long as it is there, and its own again afterwards."""
    slots = Slots(total=1, wake=bell)
    slots.take()
    async with slots.aside():
        assert (slots.free, bell.rang) == (True, 1)
    assert not slots.free
    slots.give()
    assert slots.free


async def test_what_comes_back_goes_before_new_work(bell):
    """While it waits for a place no new work begins, though one becomes free."""
    slots, at_channel, back = Slots(total=1, wake=bell), anyio.Event(), anyio.Event()

    async def batch():
        slots.take()
        async with slots.aside():
            await at_channel.wait()
        back.set()
        assert not slots.free
        slots.give()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batch)
        await wait_all_tasks_blocked()
        slots.take()  # somebody else works meanwhile
        at_channel.set()
        await wait_all_tasks_blocked()
        assert not back.is_set()
        slots.give()
        assert not slots.free
        await back.wait()
    assert slots.free


async def test_one_place_of_two_is_kept_for_what_comes_back(bell):
    """Of several that come back each gets one in the end, and never more than there are."""
    slots, at_channel, together = Slots(total=2, wake=bell), anyio.Event(), []

    async def batch():
        slots.take()
        async with slots.aside():
            await at_channel.wait()
        together.append(slots._used)
        await anyio.lowlevel.checkpoint()
        slots.give()

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(batch)
        await wait_all_tasks_blocked()
        assert slots.free
        at_channel.set()
    assert len(together) == 5
    assert max(together) == 2
    assert slots._used + slots._returning == 0


async def test_a_failure_at_the_channel_takes_the_place_back(bell):
    """Who gives it back afterwards gives back what it has."""
    slots = Slots(total=1, wake=bell)
    slots.take()
    with pytest.raises(RuntimeError):
        async with slots.aside():
            raise RuntimeError
    assert not slots.free
    slots.give()
    assert slots.free


async def test_who_is_cancelled_while_it_waits_leaves_the_count_right(bell):
    """It does not wait any longer, and gives back as much as it took."""
    slots = Slots(total=1, wake=bell)
    slots.take()
    with anyio.CancelScope() as scope:
        try:
            async with slots.aside():
                slots.take()
                scope.cancel()
        finally:
            slots.give()
    assert (slots._used, slots._returning) == (1, 0)
    slots.give()
    assert slots.free


# -- campaigns -------------------------------------------------------------------------------------
@pytest.fixture
def turns(bell):
    """Give the turns of one campaign at a time: a has its turn, b waits."""
    made = Turns(max_campaigns=1, batch_size=10, wake=bell)
    made.ready("a")
    made.ready("b")
    return made


def test_a_turn_knows_whether_anything_else_waits():
    """What was named can be decided by itself; with an order, or something due, it cannot."""
    made = Turns(max_campaigns=9, batch_size=2, wake=Bell())
    made.name("named", ["c1"])
    made.name("due", ["c1"])
    made.ready("due")
    made.name("ordered", ["c1"])
    made.order("ordered")
    made.name("many", ["c1", "c2", "c3"])
    found = [made.take() for _ in range(5)]
    assert [(each.campaign_id, each.only_named) for each in found] == [
        ("named", True),
        ("due", False),
        ("ordered", False),
        ("many", True),
        ("many", True),
    ]
    assert not made.join("a").only_named


def test_whose_a_conversation_is_need_not_be_looked_up_again():
    """Until it is no more; and only so many are remembered."""
    turns = Turns(max_campaigns=9, batch_size=10, wake=Bell())
    hints = [Hint(raw_id=RawDocument(str(n).encode()), conversation_id=f"c{n}") for n in range(2)]
    turns.belongs(conversation("r0", id="c0", campaign_id="a"))
    for hint in hints:
        turns.update(hint)
    assert turns.take_updates() == (hints[1],)
    turn = turns.take()
    assert (turn.campaign_id, turn.named) == ("a", {"c0"})
    assert turn.addressees == recipients_of(conversation().batch_request_id, [conversation("r0")])
    turns.name("a", ["c0", "c1"])
    assert turns.take().addressees is None
    turns.gone(["c9"])
    assert not turns.sweep_wanted.is_set()
    turns.gone(["c0", "c9"])
    assert turns.sweep_wanted.is_set()
    turns.update(hints[0])
    assert turns.take_updates() == (hints[0],)
    for number in range(MAX_KNOWN + 1):
        turns.belongs(conversation(id=f"c{number}"))
    turns.update(hints[0])
    assert turns.take_updates() == (hints[0],)


def test_a_campaign_at_its_channel_gives_its_place_to_another(turns, bell):
    """Another one gets a turn; then both are in work, and end as they began."""
    first = turns.take()
    assert (first.campaign_id, turns.take()) == ("a", None)
    rang = bell.rang
    with turns.aside("a"):
        assert bell.rang > rang
        second = turns.take()
        assert second.campaign_id == "b"
    turns.ready("c")
    assert turns.take() is None
    turns.done(second)
    assert turns.take() is None
    turns.done(first)
    assert turns.take().campaign_id == "c"


def test_a_campaign_that_stepped_aside_may_have_another_turn(turns):
    """Its next batch need not wait for the one that is at the channel."""
    first = turns.take()
    with turns.aside("a"):
        turns.ready("a")
        assert turns.take().campaign_id == "b"
        assert turns.take() is None
    turns.done(first)


def test_one_of_two_batches_frees_no_place(turns):
    """The campaign is in work as long as one of them is."""
    first = turns.take()
    turns.name("a", ["c1"])
    second = turns.take()
    assert (first.campaign_id, second.campaign_id) == ("a", "a")
    with turns.aside("a"):
        assert turns.take() is None
        with turns.aside("a"):
            assert turns.take().campaign_id == "b"
    turns.done(first)
    turns.done(second)
    assert turns.take() is None  # b is in work still


def test_a_failure_takes_the_campaigns_place_back(turns):
    """The turn ends as every other."""
    first = turns.take()
    with pytest.raises(RuntimeError), turns.aside("a"):
        raise RuntimeError
    assert turns.take() is None
    turns.done(first)
    turns.done(turns.take())
    assert turns.idle
