"""
Documents in and out.

`read_…` is for what other programs write: strict, with every problem of a document at once. Each
raises InvalidDocumentError, or NewerSchemaError where only a later version understands it.
`to_document` and `from_document` are for our own documents.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from schemas import values
from schemas.batch_request import BatchRequest, Recipient
from schemas.faults import problems_of
from schemas.ids import campaign_id, conversation_id
from schemas.problems import (
    Fault,
    InvalidDocumentError,
    NewerSchemaError,
    refuse_newer,
    show,
)
from schemas.stored import differing, from_document, spelled, to_document
from schemas.strict import make_converter
from schemas.template import Template
from schemas.update import CampaignUpdate, CampaignUpdateKind, ConversationUpdate, UpdateKind

__all__ = [
    "InvalidDocumentError",
    "NewerSchemaError",
    "differing",
    "from_document",
    "read_batch_request",
    "read_campaign_update",
    "read_conversation_update",
    "read_recipient",
    "read_template",
    "refuse_newer",
    "spelled",
    "to_document",
]

#: Characters of a reply that are kept in the conversation; the update keeps the whole.
MAX_REPLY_TEXT = 16_000
#: Which kinds of update a field belongs to; fields not named here belong to all.
KINDS_OF_FIELD: Mapping[str, frozenset[UpdateKind]] = {
    "text": frozenset({UpdateKind.REPLY}),
    "intent": frozenset({UpdateKind.REPLY}),
    "reply_id": frozenset({UpdateKind.REPLY}),
    "message_id": frozenset(
        {
            UpdateKind.REPLY,
            UpdateKind.DELIVERED,
            UpdateKind.BOUNCED,
            UpdateKind.UNKNOWN_RESOLVED,
        }
    ),
    "message": frozenset({UpdateKind.SEND}),
    "in_reply_to": frozenset({UpdateKind.SEND}),
    "then": frozenset({UpdateKind.SEND}),
    "bounce": frozenset({UpdateKind.BOUNCED}),
    "scope": frozenset({UpdateKind.OPTED_OUT}),
    "resolution": frozenset({UpdateKind.ESCALATION_RESOLVED}),
    "until": frozenset({UpdateKind.PAUSE}),
    "outcome": frozenset({UpdateKind.UNKNOWN_RESOLVED}),
}
REQUIRED_OF_KIND: Mapping[str, UpdateKind] = {
    "message": UpdateKind.SEND,
    "outcome": UpdateKind.UNKNOWN_RESOLVED,
}
#: Orders about a campaign that take no `until`.
ORDERS_WITHOUT_END = tuple(
    kind for kind in CampaignUpdateKind if kind is not CampaignUpdateKind.PAUSE
)
#: Stands in for an identity that cannot be derived, while the rest of the document is looked at.
_UNKNOWN = "?"

_PARTS: Mapping[str, Callable[[object], object]] = {
    "batch_request_id": values.read_id,
    "recipient_id": values.read_recipient_id,
}
_CONVERTER = make_converter()


def read_batch_request(document: object) -> BatchRequest:
    return _read(BatchRequest, document, "$")


def read_recipient(document: object, path: str) -> Recipient:
    """Read an inline recipient, or a document of `batch_recipients`; `path` begins its problems."""
    return _read(Recipient, document, path)


def read_template(document: object) -> Template:
    """Read a template that stands alone: a document of `campaign_templates`, or a file."""
    return _read(Template, document, "$")


def read_conversation_update(document: object, *, now: datetime) -> ConversationUpdate:
    """Read an update of a conversation. Where it does not say when it happened, that is `now`."""
    faults: list[Exception] = []
    fields = _with_time(document, now)
    _identify(fields, faults, "conversation_id", ("batch_request_id", "recipient_id"))
    kind = fields.get("kind")
    if kind in tuple(UpdateKind):
        faults.extend(
            Fault(f".{name}", f"does not belong to kind {show(kind)}")
            for name, kinds in KINDS_OF_FIELD.items()
            if fields.get(name) is not None and kind not in kinds
        )
    faults.extend(
        Fault(f".{name}", "required")
        for name, of in REQUIRED_OF_KIND.items()
        if kind == of and fields.get(name) is None
    )
    if type(text := fields.get("text")) is str:
        fields["text"] = text.replace("\0", "")[:MAX_REPLY_TEXT]
    return _read(ConversationUpdate, fields, "$", faults)


def read_campaign_update(document: object, *, now: datetime) -> CampaignUpdate:
    """Read an update of a campaign. Where it does not say when it happened, that is `now`."""
    faults: list[Exception] = []
    fields = _with_time(document, now)
    _identify(fields, faults, "campaign_id", ("batch_request_id",))
    if fields.get("until") is not None and fields.get("kind") in ORDERS_WITHOUT_END:
        faults.append(Fault(".until", f"does not belong to kind {show(fields['kind'])}"))
    return _read(CampaignUpdate, fields, "$", faults)


def _read[T](cls: type[T], document: object, path: str, faults: list[Exception] | None = None) -> T:
    """Read a document, of which `faults` are known already."""
    refuse_newer(document)
    found = list(faults or ())
    read: T | None = None
    try:
        read = _CONVERTER.structure(document, cls)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is about this document
        found.append(error)
    if found or read is None:
        raise InvalidDocumentError(
            problem for fault in found for problem in problems_of(fault, path)
        )
    return read


def _with_time(document: object, now: datetime) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise InvalidDocumentError([f"$: expected an object, got {show(document)}"])
    fields = dict(document)
    if fields.get("at") is None:
        fields["at"] = now
    return fields


def _identify(
    fields: dict[str, Any], faults: list[Exception], name: str, parts: tuple[str, ...]
) -> None:
    """Fill in the identity `name` from `parts`, or see that they agree."""
    given = fields.get(name)
    if all(fields.get(part) is None for part in parts):
        if given is None:
            faults.append(Fault(f".{name}", f"required, or {' and '.join(parts)}"))
            fields[name] = _UNKNOWN
        return
    derived = _derived(fields, faults, parts)
    if given is None:
        fields[name] = derived or _UNKNOWN
    elif derived and given != derived:
        faults.append(Fault(f".{name}", f"expected the one of {' and '.join(parts)}, got another"))


def _derived(fields: dict[str, Any], faults: list[Exception], parts: tuple[str, ...]) -> str | None:
    """Derive the identity of a campaign, or with a recipient of its conversation."""
    found = len(faults)
    identity: list[Any] = []
    for part in parts:
        if fields.get(part) is None:
            faults.append(Fault(f".{part}", "required"))
            continue
        try:
            identity.append(_PARTS[part](fields[part]))
        except ValueError as error:
            faults.append(Fault(f".{part}", str(error)))
    if len(faults) > found:
        return None
    return campaign_id(*identity) if len(parts) == 1 else conversation_id(*identity)
