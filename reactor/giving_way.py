"""Long loops give way: who waits for one message does not wait for a whole batch each time."""

import anyio.lowlevel

#: Rounds of a loop between two pauses: some half of a millisecond.
ROUNDS = 10


async def give_way(rounds: int) -> None:
    """Let the others have their turn, now and then."""
    if rounds % ROUNDS == 0:
        await anyio.lowlevel.checkpoint()
