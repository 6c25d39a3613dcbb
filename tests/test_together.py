"""Two things at once: both come to their ends, whatever becomes of one of them."""

import anyio
import pytest

from reactor.together import together


def work(log, name, outcome, *, waits_for=None, ends=None):
    """Make something to do that gives or raises an outcome, once it may end."""

    async def run():
        log.append(f"{name} begins")
        if waits_for:
            await waits_for.wait()
        log.append(f"{name} ends")
        if ends:
            ends.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return run


async def test_both_are_given_and_the_first_goes_ahead():
    """Whichever ends first; what the first has begun stands before the second."""
    log, ended = [], anyio.Event()

    async def first():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work(log, "inner", None))
            return await work(log, "first", 1, waits_for=ended)()

    assert await together(first, work(log, "second", 2, ends=ended)) == (1, 2)
    assert log == [
        "first begins",
        "inner begins",
        "inner ends",
        "second begins",
        "second ends",
        "first ends",
    ]


@pytest.mark.parametrize(
    ("outcomes", "raised"),
    [
        ((ZeroDivisionError("1"), 2), "1"),
        ((1, ZeroDivisionError("2")), "2"),
        ((ZeroDivisionError("1"), ZeroDivisionError("2")), "1"),
    ],
    ids=["the first", "the second", "both"],
)
async def test_what_one_raises_cuts_nothing_of_the_other(outcomes, raised):
    """It is raised as it is, when both have ended."""
    log, first, second = [], *outcomes
    with pytest.raises(ZeroDivisionError, match=raised):
        await together(work(log, "first", first), work(log, "second", second))
    assert {"first ends", "second ends"} <= set(log)


async def test_a_cancellation_ends_both():
    """Nobody is left behind."""
    log, never = [], anyio.Event()
    with anyio.move_on_after(0.01) as scope:
        await together(
            work(log, "first", 1, waits_for=never), work(log, "second", 2, waits_for=never)
        )
    assert scope.cancelled_caught
    assert log == ["first begins", "second begins"]
