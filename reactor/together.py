"""Two things that do not depend on each other, at the same time."""

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel


async def together[A, B](
    first: Callable[[], Awaitable[A]], second: Callable[[], Awaitable[B]]
) -> tuple[A, B]:
    """
    Do both to their ends, and give what they gave; the second lets the first go ahead.

    What the first raises is raised, else what the second does: as it is, without a group around it,
    and once both have ended.
    """
    seconds: list[B | Exception] = []

    async def run_second() -> None:
        # Behind what the first has started: whoever is waited for stands first.
        await anyio.lowlevel.checkpoint()
        seconds.append(await _ended(second))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_second)
        one = await _ended(first)
    other = seconds[0]
    if isinstance(one, Exception):
        raise one
    if isinstance(other, Exception):
        raise other
    return one, other


async def _ended[T](work: Callable[[], Awaitable[T]]) -> T | Exception:
    try:
        return await work()
    except Exception as error:  # noqa: BLE001 - raised by whoever asks
        return error
