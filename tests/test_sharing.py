"""Who looks at what: every bucket has one owner, and one that leaves moves no bucket but its own."""

import pytest

from reactor.sharing import MAX_HINTS, OVERDUE_SECONDS, Share
from reactor.store.hints import hint_of
from reactor.store.protocol import Hint, Inbox, RawDocument
from schemas.ids import BUCKETS, bucket, campaign_id, conversation_id

WORKERS = frozenset(f"host-{n}-{n * 7919:x}" for n in range(8))
EVERY = frozenset(range(BUCKETS))


def shares(workers):
    """Give each worker its share."""
    made = {}
    for worker in workers:
        made[worker] = Share()
        made[worker].among(worker, workers)
    return made


def test_alone_everything_is_ones_own():
    """Before anything is known of others, and when they are gone."""
    share = Share()
    assert (share.buckets, share.next_in_line, share.rest) == (None, frozenset(), frozenset())
    assert (share.listens, share.hears) == (True, None)
    share.among("a", {"a", "b", "c"}, {"b", "c"})
    assert share.buckets not in (None, EVERY)
    assert share.rest == EVERY - share.buckets
    assert (share.listens, share.hears) == (False, frozenset())
    share.among("a", {"a"})
    assert (share.buckets, share.next_in_line, share.rest) == (None, frozenset(), frozenset())
    assert (share.listens, share.hears) == (True, None)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_each_bucket_has_one_owner_and_one_that_is_next(count):
    """Whoever computes it; and nobody has much more than others."""
    made = shares(sorted(WORKERS)[:count])
    for name in ("buckets", "next_in_line"):
        parts = [getattr(share, name) for share in made.values()]
        assert sum(map(len, parts)) == BUCKETS
        assert frozenset().union(*parts) == EVERY
    assert all(not share.buckets & share.next_in_line for share in made.values())
    assert all(0.5 < len(share.buckets) * count / BUCKETS < 1.6 for share in made.values())


@pytest.mark.parametrize(
    ("count", "listening"), [(2, 2), (3, 2), (4, 2), (8, 2), (9, 3), (12, 3), (13, 4), (40, 10)]
)
def test_a_few_listen(count, listening):
    """Two, or a quarter of many; each document is one's of them, and nobody has much more."""
    made = shares([f"w{n}" for n in range(count)])
    parts = [share.hears for share in made.values() if share.listens]
    assert len(parts) == listening
    assert sum(map(len, parts)) == BUCKETS
    assert frozenset().union(*parts) == EVERY
    assert all(0.5 < len(part) * listening / BUCKETS < 1.6 for part in parts)
    assert not any(share.hears for share in made.values() if not share.listens)


def test_one_that_leaves_changes_nothing_for_others_who_listen():
    """Whoever listens goes on; only in the place of one that did another comes."""
    before = {worker for worker, share in shares(WORKERS).items() if share.listens}
    for gone in WORKERS:
        after = {worker for worker, share in shares(WORKERS - {gone}).items() if share.listens}
        assert before - {gone} <= after
        assert len(after - before) == (gone in before)


def test_whoever_cannot_listen_leaves_it_to_those_who_can():
    """If nobody can, they share as if all did."""
    share = Share()
    share.among("a", WORKERS, {"a"})
    assert (share.listens, share.hears) == (True, EVERY)
    share.among("a", WORKERS, {min(WORKERS)})
    assert (share.listens, share.hears) == (False, frozenset())
    nobody, everybody = Share(), Share()
    nobody.among("a", WORKERS, ())
    everybody.among("a", WORKERS)
    assert (nobody.listens, nobody.hears) == (everybody.listens, everybody.hears)


def test_one_that_leaves_moves_no_bucket_but_its_own():
    """They go to those who were next in line."""
    before = shares(WORKERS)
    gone = min(WORKERS)
    after = shares(WORKERS - {gone})
    for worker, share in after.items():
        moved = before[gone].buckets & before[worker].next_in_line
        assert share.buckets == before[worker].buckets | moved


def test_what_one_has_opened_it_begins_until_the_others_look():
    """All of it, whoever's it is; of other campaigns its own share."""
    time = [100.0]
    share = Share(lambda: time[0])
    share.among("a", {"a", "b"})
    share.opened(campaign_id("q1"))
    time[0] += OVERDUE_SECONDS / 2
    share.opened(campaign_id("q2"))
    assert share.buckets_of(campaign_id("q1")) is None
    assert share.buckets_of(campaign_id("q3")) == share.buckets
    time[0] += OVERDUE_SECONDS / 2
    assert share.buckets_of(campaign_id("q1")) == share.buckets
    assert share.buckets_of(campaign_id("q2")) is None


def test_one_that_is_not_known_yet_shares_with_nobody():
    """A worker that has not heard of itself is among the others all the same."""
    share = Share()
    share.among("a", {"b"})
    assert share.buckets is not None


def test_an_update_is_its_conversation_s_owner_s():
    """By either address; a request and an order are the campaign's owner's. Both listen."""
    made = shares(WORKERS)
    conversation, campaign = conversation_id("q", "r0"), campaign_id("q")
    hints = {
        conversation: [
            hint(Inbox.CONVERSATION_UPDATES, conversation_id=conversation),
            hint(Inbox.CONVERSATION_UPDATES, batch_request_id="q", recipient_id="r0"),
        ],
        campaign: [
            hint(Inbox.BATCH_REQUESTS, _id="q"),
            hint(Inbox.CAMPAIGN_UPDATES, batch_request_id="q"),
            hint(Inbox.CAMPAIGN_UPDATES, campaign_id=campaign),
        ],
    }
    for identity, found in hints.items():
        (owner,) = (share for share in made.values() if share.owns(identity))
        assert owner.listens
        assert bucket(identity) in owner.hears
        for one in found:
            assert [share for share in made.values() if share.is_ours(one)] == [owner]


@pytest.mark.parametrize(
    "fields", [{}, *({"conversation_id": each} for each in ("", "a", "é", "\ud800", "!!!!"))]
)
def test_whatever_it_says_it_has_one_owner(fields):
    """What is about nobody, or about no id of ours, is answered by somebody, too."""
    one = hint(Inbox.CONVERSATION_UPDATES, **fields)
    assert sum(share.is_ours(one) for share in shares(WORKERS).values()) == 1
    assert Share().is_ours(one)


def hint(inbox, **fields):
    """Make the hint of a document."""
    return hint_of(inbox, {"_id": "u"} | fields, b"raw")


class TestOthers:
    def test_are_left_alone_for_a_moment(self):
        """Then they are given, once, in order, so many at a time."""
        now = [0.0]
        share = Share(lambda: now[0])
        hints = [Hint(raw_id=RawDocument(bytes([n]))) for n in range(3)]
        for one in hints:
            share.leave(Inbox.BATCH_REQUESTS, one)
        assert share.overdue(9) == []
        now[0] = OVERDUE_SECONDS
        share.leave(Inbox.BATCH_REQUESTS, hints[0])
        assert share.overdue(2) == [(Inbox.BATCH_REQUESTS, one) for one in hints[:2]]
        assert share.overdue(2) == [(Inbox.BATCH_REQUESTS, hints[2])]
        assert share.overdue(2) == []

    def test_are_bounded(self):
        """The oldest go: a sweep finds them."""
        share = Share(lambda: 0.0)
        for n in range(MAX_HINTS + 5):
            share.leave(Inbox.BATCH_REQUESTS, Hint(raw_id=RawDocument(str(n).encode())))
        share.monotonic = lambda: 10.0
        found = share.overdue(2 * MAX_HINTS)
        assert len(found) == MAX_HINTS
        assert found[0][1].raw_id.data == b"5"
