"""Documents that no driver should have written: each is answered on itself, and stops nothing else."""

import bson
from bson import DatetimeMS
from bson.raw_bson import RawBSONDocument

from tests.builders import batch_request_document

#: What its ids begin with.
POISON = "poison-"
LARGE = 15_000_000
BEYOND_PYTHON = DatetimeMS(2**60)


def not_utf8(document, field):
    """Break the text of a field; the server takes it all the same."""
    raw = bson.encode(document | {field: "BREAKME"})
    return RawBSONDocument(raw.replace(b"BREAKME", b"\xff\xfe\xfa\xff\xfe\xfa\xff"))


def poison(number, request):
    """Give one of each kind, as (collection, _id, document); updates are about a request's people."""
    requests = {
        "types": {"name": 5, "type": None, "template": [1], "recipients": {"a": 1}},
        "date": {"scheduled_at": BEYOND_PYTHON},
        "large": {"metadata": {"x": "x" * LARGE}},
    }
    whom = {"batch_request_id": request, "recipient_id": "r0", "kind": "reply"}
    updates = {
        "kind": {**whom, "kind": "explode"},
        "whom": {"conversation_id": 5, "kind": "reply"},
        "nobody": {"conversation_id": "nobody", "kind": "reply"},
        "date": {**whom, "at": BEYOND_PYTHON},
        "large": {**whom, "text": "x" * LARGE, "kind": "no such kind"},
    }
    orders = {"kind": {"batch_request_id": request, "kind": "explode"}, "whom": {"kind": "pause"}}
    named = {
        "batch_requests": requests,
        "conversation_updates": updates,
        "campaign_updates": orders,
    }
    for collection, documents in named.items():
        for name, fields in documents.items():
            identity = f"{POISON}{number}-{name}"
            whole = batch_request_document(1) if collection == "batch_requests" else {}
            yield collection, identity, {**whole, **fields, "_id": identity}
        identity = f"{POISON}{number}-not-utf8"
        about = batch_request_document(1) if collection == "batch_requests" else whom
        field = "name" if collection == "batch_requests" else "text"
        yield collection, identity, not_utf8({**about, "_id": identity}, field)
