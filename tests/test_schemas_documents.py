"""BSON in: what is decoded, what is refused without a word of it, and how it is found again."""

import struct
from datetime import UTC, datetime
from uuid import UUID

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st

from schemas.documents import CODEC, decode, id_filter
from schemas.problems import InvalidDocumentError
from tests.builders import NOW

UNREADABLE = b"\xff\xfe\xfd"


def encode(document):
    """Encode as the project does."""
    return bson.encode(document, codec_options=CODEC)


def encode_in_order(document):
    """Encode a document whose `_id`, spelled @id, need not come first as drivers see to."""
    return encode(document).replace(b"@id\0", b"_id\0")


def spoiled(document):
    """Make text that is not UTF-8 of every ABC in a document."""
    return encode(document).replace(b"ABC", UNREADABLE)


def found_by(raw):
    """Give the value that the filter for a document compares `_id` with."""
    return bson.decode(id_filter(raw).raw, CODEC)["_id"]["$eq"]


def test_decodes():
    """Dates come aware, UUIDs as such, and a date beyond Python's years does not stop the rest."""
    identity = UUID(int=7)
    decoded = decode(encode({"_id": identity, "at": NOW, "late": DatetimeMS(2**60)}))
    assert decoded == {"_id": identity, "at": NOW, "late": DatetimeMS(2**60)}
    assert decoded["at"].utcoffset() == datetime.now(UTC).utcoffset()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (spoiled({"_id": 1, "name": "ABC secret"}), "a text that is not UTF-8"),
        (encode({"secret": 1}).replace(b"\x10secret", b"\x20secret"), "InvalidBSON"),
        (encode({"secret": 1})[:-3], "InvalidBSON"),
        (b"", "InvalidBSON"),
    ],
)
def test_refuses_without_content(raw, why):
    """Bytes that are no document are a problem that repeats nothing of them."""
    with pytest.raises(InvalidDocumentError) as refused:
        decode(raw)
    assert refused.value.problems == (f"$: not valid BSON: {why}",)


@pytest.mark.parametrize(
    "before",
    [
        1.5,
        "text",
        {"_id": 5},
        [1, "_id"],
        b"bytes",
        bson.Binary(b"old", 2),
        bson.ObjectId("0" * 24),
        True,
        NOW,
        None,
        bson.Regex("a", "i"),
        bson.Code("f()"),
        bson.Code("f()", {"_id": 3}),
        5,
        bson.Timestamp(1, 2),
        2**40,
        Decimal128("1.5"),
        bson.MinKey(),
        bson.MaxKey(),
        bson.DBRef("c", 1),
    ],
    ids=repr,
)
def test_finds_the_id_behind_anything(before):
    """The `_id` is found whatever stands before it, and is no other document's."""
    assert found_by(encode_in_order({"before": before, "@id": "mine", "after": 1})) == "mine"


@given(
    st.one_of(
        st.text(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.binary(),
        st.booleans(),
        st.none(),
        st.uuids(),
        st.dictionaries(
            st.text(st.characters(exclude_characters="\0$", exclude_categories=["Cs"]), min_size=1),
            st.text(),
        ),
    )
)
def test_finds_any_id(identity):
    """Whatever an `_id` is, the filter holds exactly it."""
    raw = encode({"_id": identity, "name": "x"})
    assert found_by(raw) == bson.decode(raw, CODEC)["_id"]


@pytest.mark.parametrize(
    "raw",
    [
        encode({"name": "x"}),
        encode({}),
        b"",
        b"\x05\0\0",
        encode({"_id": 1})[:12],
        encode_in_order({"a": 1, "@id": 1}).replace(b"\x10a", b"\x20a"),
        encode_in_order({"a": "x", "@id": 1}).replace(
            struct.pack("<i", 2), struct.pack("<i", -9), 1
        ),
        b"\x10\0\0\0\x10_id",
    ],
)
def test_says_where_no_id_is(raw):
    """Bytes without an `_id` that can be told give no filter, rather than one that fits others."""
    with pytest.raises(ValueError, match="expected a document with an _id"):
        id_filter(raw)


@pytest.mark.parametrize(
    "identity", ["ABC", {"part": "ABC"}, {"part": 1}, "plain", 5, {}, b"ABC"], ids=repr
)
def test_updates_that_document_alone(mongodb_client, database_name, identity):
    """MongoDB finds the document by the filter, also where no driver can decode its `_id`."""
    collection = mongodb_client[database_name]["updates"]
    raw = spoiled({"_id": identity, "name": "ABC"})
    collection.insert_one(RawBSONDocument(raw))
    collection.insert_many([{"_id": "other"}, {"_id": {"part": "other"}}])

    answered = collection.update_one(id_filter(raw), {"$set": {"status": "rejected"}})

    assert (answered.matched_count, answered.modified_count) == (1, 1)
    assert collection.count_documents({"status": "rejected"}) == 1
    assert collection.count_documents({"_id": "other", "status": "rejected"}) == 0
