"""Recipients and their places in a request, the same in both stores."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

from reactor.store.protocol import Conflict, RejectedRecipient
from schemas.conversation import Conversation
from schemas.converter import InvalidDocumentError
from schemas.documents import CODEC, decode


def read_recipient(raw: bytes) -> tuple[object, str | None]:
    """Decode one recipient by itself: document and problem."""
    try:
        return decode(raw), None
    except InvalidDocumentError as error:
        return None, "; ".join(error.problems)


def read_inline(element: object) -> tuple[object, str | None]:
    """Decode one inline recipient, of a list that was read raw."""
    if isinstance(element, RawBSONDocument):
        return read_recipient(bytes(element.raw))
    return element, None


def conflict(one: Conversation, positions: Mapping[str, object]) -> Conflict:
    """Say why a conversation was not inserted; `positions`: by id, of those that are there."""
    if one.id not in positions:
        return Conflict.ADDRESS
    # As BSON: to Python, 1 and true are equal.
    same = _digest(positions[one.id]) == _digest(one.position)
    return Conflict.SAME if same else Conflict.RECIPIENT_ID


def rejected_document(rejected: RejectedRecipient) -> dict[str, object]:
    """Make the entry; its `_id` follows from its place in the request, so that it comes once."""
    return {
        "_id": rejected_id(rejected.batch_request_id, rejected.position),
        "batch_request_id": rejected.batch_request_id,
        **({} if rejected.index is None else {"index": rejected.index}),
        "recipient_id": rejected.recipient_id,
        "problem": rejected.problem,
    }


def rejected_id(request: object, position: object) -> str:
    """Give the `_id` of the entry of whoever stood at this place in the request."""
    return _digest([request, position])


def rejected_shown(entry: Mapping[str, Any]) -> Mapping[str, object]:
    """Give what the request's answer says of it."""
    index = {"index": entry["index"]} if "index" in entry else {}
    return {**index, "id": entry.get("recipient_id"), "problem": entry.get("problem")}


def _digest(value: object) -> str:
    digest = hashlib.sha256(bson.encode({"v": value}, codec_options=CODEC)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
