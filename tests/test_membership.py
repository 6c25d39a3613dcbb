"""Who lives, who listens, and how the others hear that there is something to do."""

import pytest
from attrs import define, field

from reactor.membership import Membership
from reactor.sharing import Share, listeners
from reactor.store.memory import MemoryStore
from reactor.store.protocol import Inbox
from reactor.turns import Turns
from tests.builders import NOW

WORKERS = ["a", "b", "c", "d"]


@define
class Part:
    """What of an engine a member needs."""

    store: MemoryStore
    share: Share = field(factory=Share)
    turns: Turns = field(factory=lambda: Turns(max_campaigns=1, batch_size=1, wake=list))

    def asked(self):
        """Say whether a sweep is wanted, which then begins."""
        wanted = self.turns.sweep_wanted.is_set()
        self.turns.swept()
        return wanted


async def together(workers=WORKERS, **can_listen):
    """Have them know of each other; each one's membership and part, by name."""
    store = MemoryStore(lambda: NOW)
    members = {
        name: Membership(Part(store), name, lambda: True, can_listen.get(name, True))
        for name in workers
    }
    for _ in range(2):
        for member in members.values():
            await member.beat()
    for member in members.values():
        member.engine.turns.swept()
    return members


async def test_two_of_four_listen():
    """Whoever they are, all agree on them."""
    members = await together()
    listening = {name for name, member in members.items() if member.engine.share.listens}
    assert listening == set(listeners(WORKERS))


@pytest.mark.parametrize(
    ("inbox", "is_news"),
    [
        (Inbox.BATCH_REQUESTS, True),
        (Inbox.CAMPAIGN_UPDATES, True),
        (Inbox.CONVERSATION_UPDATES, False),
    ],
)
async def test_what_is_for_all_is_heard_by_all(inbox, is_news):
    """Once; who listens knows it already, and a reply is answered by who heard of it."""
    members = await together()
    first, *_ = listeners(WORKERS)
    members[first].hears(inbox)
    await members[first].beat()
    for _ in range(2):
        for name, member in members.items():
            await member.beat()
            assert member.engine.asked() == (is_news and not member.engine.share.listens), name
        is_news = False


async def test_one_that_dies_is_replaced():
    """By the next in rank; all look for what may be theirs now."""
    members = await together()
    gone, stays = listeners(WORKERS)
    await members.pop(gone).leave()
    for member in members.values():
        await member.beat()
        assert member.engine.asked()
    listening = {name for name, member in members.items() if member.engine.share.listens}
    assert listening == set(listeners(members))
    assert stays in listening
    assert len(listening) == 2


async def test_whoever_cannot_listen_is_not_waited_for():
    """Its change stream is switched off."""
    members = await together(a=False, b=False, c=False)
    assert [name for name, one in members.items() if one.engine.share.listens] == ["d"]
