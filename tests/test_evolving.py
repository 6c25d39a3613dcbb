"""A changed copy is what attrs makes of it, and shares what was not changed."""

import attrs
import pytest

from schemas.campaign import Campaign
from schemas.conversation import Conversation, Slot, Visit
from schemas.evolving import evolve
from schemas.transition import Transition
from tests.builders import campaign, conversation, reply, slot


@pytest.mark.parametrize(
    ("made", "changes"),
    [
        (conversation(), {"stage": "demo", "slot": slot()}),
        (campaign(), {"version": 7}),
        (slot(), {"attempts": 2, "token": None}),
        (Visit(), {"messages": 3}),
        (reply(), {"settled": True}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_it_is_what_attrs_makes_of_it(made, changes):
    """Whether its class keeps a `__dict__` or not; the one it was made from stays as it was."""
    before = attrs.asdict(made, recurse=False)
    after = evolve(made, **changes)
    assert after == attrs.evolve(made, **changes)
    assert type(after) is type(made)
    assert attrs.asdict(made, recurse=False) == before


@pytest.mark.parametrize("made", [conversation(), reply()])
def test_a_field_that_is_none_is_refused(made):
    """A slip of the pen is an error, as with attrs."""
    with pytest.raises(TypeError, match="stagge"):
        evolve(made, stagge="demo")


@pytest.mark.parametrize("cls", [Campaign, Conversation, Slot, Transition, Visit])
def test_what_is_copied_has_no_validators(cls):
    """They would not run again."""
    assert not any(field.validator or field.converter for field in attrs.fields(cls))


def test_two_are_the_same_by_their_fields():
    """Whichever of the two ways tells; what is of another class is never the same."""
    one, other = slot(), slot()
    assert one == other
    assert one is not other
    assert evolve(one, n=one.n + 1) != other
    assert one != Visit()
    assert Visit() != "visit"


def test_a_copy_is_frozen_too():
    """Nothing of it can be set."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        evolve(conversation(), stage="demo").stage = "intro"
