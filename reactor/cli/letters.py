"""Dead letters: what was parked, what has failed, what is held. Nobody goes on with them alone."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import frozen
from pymongo.asynchronous.database import AsyncDatabase

from reactor.cli.bulk import batches
from reactor.cli.held import Held, campaign_ids, held_messages
from reactor.cli.session import Document, Session
from reactor.store.hints import hint_of
from reactor.store.protocol import Inbox
from reactor.store.raw import GLANCE
from schemas.conversation import ConversationStatus, ExitReason
from schemas.ids import AgentId, CampaignId, campaign_id
from schemas.update import UpdateStatus


class Kind(StrEnum):
    REQUEST = "request"
    UPDATE = "update"
    CAMPAIGN_UPDATE = "campaign_update"
    CONVERSATION = "conversation"
    #: Held, because nobody knows what came of it.
    MESSAGE = "message"


INBOXES = {
    Kind.REQUEST: Inbox.BATCH_REQUESTS,
    Kind.UPDATE: Inbox.CONVERSATION_UPDATES,
    Kind.CAMPAIGN_UPDATE: Inbox.CAMPAIGN_UPDATES,
}
PARKED = UpdateStatus.PARKED.value
HELD = "held"
#: Exit reasons of conversations that `retry` puts back.
FAILURES = tuple(
    each.value
    for each in (
        ExitReason.FAILED_PERMANENT,
        ExitReason.FAILED_RETRIES,
        ExitReason.TEMPLATE_ERROR,
        ExitReason.RUNAWAY_GUARD,
    )
)
REASONS = (PARKED, *FAILURES, HELD)
#: Of a parked document: nothing that is long, or that somebody wrote.
PARKED_FIELDS = (
    *("status", "reason", "problems", "decided_at", "applied_at"),
    *("conversation_id", "campaign_id", "batch_request_id", "recipient_id"),
)
FAILED_FIELDS = (
    *("campaign_id", "batch_request_id", "recipient.id"),
    *("status", "status_since", "exit_reason", "last_error"),
)


@frozen(kw_only=True)
class Letter:
    kind: Kind
    id: Any
    #: None: it is about no campaign that there is.
    campaign: CampaignId | None
    request: object
    reason: str
    at: datetime | None
    error: str | None
    #: Of a message that is held.
    held: Held | None = None

    def document(self) -> Document:
        """Give it as programs read it."""
        return {
            "kind": self.kind.value,
            "id": self.id,
            "campaign_id": self.campaign,
            "batch_request_id": self.request,
            "reason": self.reason,
            "at": self.at,
            "error": self.error,
        }


@frozen(kw_only=True)
class Group:
    """Letters that are alike; `example` is the newest of them."""

    count: int
    example: Letter

    def document(self) -> Document:
        """Give it as programs read it."""
        fields = self.example.document()
        newest = {"newest": fields.pop("at"), "example_id": fields.pop("id")}
        return {**fields, "count": self.count, **newest}


@frozen(kw_only=True)
class Selection:
    #: None: of all campaigns, and of none.
    campaign: CampaignId | None = None
    #: None: whatever the reason.
    reason: str | None = None
    #: Conversations that have failed by then: what fails again meanwhile is not taken again.
    until: datetime

    def takes(self, reason: str) -> bool:
        return self.reason in {None, reason}


def tolerant(session: Session) -> AsyncDatabase[Document]:
    """Give the database so that a text which is no UTF-8 can be read: such documents are parked."""
    return session.database.with_options(codec_options=GLANCE)


async def letters(session: Session, selection: Selection) -> AsyncIterator[Letter]:
    for kind in INBOXES:
        async for letter in parked(session, kind, selection):
            yield letter
    async for letter in failed(session, selection):
        yield letter
    async for letter in held(session, selection):
        yield letter


async def parked(session: Session, kind: Kind, selection: Selection) -> AsyncIterator[Letter]:
    if not selection.takes(PARKED):
        return
    query = {"status": PARKED}
    found = tolerant(session)[INBOXES[kind]].find(query, dict.fromkeys(PARKED_FIELDS, 1))
    async for batch in batches(found):
        for letter in await parked_letters(session, kind, batch):
            if selection.campaign in {None, letter.campaign}:
                yield letter


async def parked_letters(
    session: Session, kind: Kind, documents: Sequence[Document]
) -> list[Letter]:
    """Make letters of parked documents, with the campaigns that they are about."""
    hints = [hint_of(INBOXES[kind], document, b"") for document in documents]
    about = [hint.conversation_id for hint in hints if hint.conversation_id]
    owners: dict[Any, Document] = {}
    if about:
        fields = {"campaign_id": 1, "batch_request_id": 1}
        found = session.database["conversations"].find({"_id": {"$in": about}}, fields)
        owners = {each["_id"]: each async for each in found}
    made = []
    for document, hint in zip(documents, hints, strict=True):
        owner = owners.get(hint.conversation_id, {})
        campaign, request = hint.campaign_id, document.get("batch_request_id")
        if kind is Kind.REQUEST:
            request = document["_id"]
            campaign = campaign_id(request) if isinstance(request, AgentId.__value__) else None
        made.append(
            Letter(
                kind=kind,
                id=document["_id"],
                campaign=owner.get("campaign_id", campaign),
                request=owner.get("batch_request_id", request),
                reason=PARKED,
                at=document.get("applied_at") or document.get("decided_at"),
                error=_problem(document),
            )
        )
    return made


async def failed(session: Session, selection: Selection) -> AsyncIterator[Letter]:
    async for query in _failed_queries(session, selection):
        fields = dict.fromkeys(FAILED_FIELDS, 1)
        async for document in tolerant(session)["conversations"].find(query, fields):
            yield failed_letter(document)


def failed_letter(conversation: Mapping[str, Any]) -> Letter:
    return Letter(
        kind=Kind.CONVERSATION,
        id=conversation["_id"],
        campaign=conversation.get("campaign_id"),
        request=conversation.get("batch_request_id"),
        reason=str(conversation.get("exit_reason")),
        at=conversation.get("status_since"),
        error=conversation.get("last_error"),
    )


async def held(session: Session, selection: Selection) -> AsyncIterator[Letter]:
    if selection.takes(HELD):
        async for message in held_messages(session, selection.campaign):
            yield held_letter(message)


def held_letter(message: Held) -> Letter:
    return Letter(
        kind=Kind.MESSAGE,
        id=message.key,
        campaign=message.campaign,
        request=message.request,
        reason=HELD,
        at=message.since,
        error=message.error,
        held=message,
    )


async def groups(session: Session, selection: Selection) -> list[Group]:
    """Put together what is alike, the newest first. Those that failed are counted by the server."""
    found: dict[tuple[object, ...], Group] = {}

    def add(letter: Letter, count: int) -> None:
        alike = (letter.kind, letter.campaign, letter.reason)
        present = found.get(alike, Group(count=0, example=letter))
        example = max(present.example, letter, key=_age)
        found[alike] = Group(count=present.count + count, example=example)

    async for group in _failed_groups(session, selection):
        add(group.example, group.count)
    for kind in INBOXES:
        async for letter in parked(session, kind, selection):
            add(letter, 1)
    async for letter in held(session, selection):
        add(letter, 1)
    return sorted(found.values(), key=lambda group: _age(group.example), reverse=True)


async def _failed_groups(session: Session, selection: Selection) -> AsyncIterator[Group]:
    newest = {
        "sortBy": {"status_since": -1},
        "output": {
            "_id": "$_id",
            "batch_request_id": "$batch_request_id",
            "status_since": "$status_since",
            "last_error": "$last_error",
        },
    }
    group = {
        "_id": {"campaign_id": "$campaign_id", "exit_reason": "$exit_reason"},
        "count": {"$sum": 1},
        "newest": {"$top": newest},
    }
    async for query in _failed_queries(session, selection):
        pipeline = [{"$match": query}, {"$group": group}]
        async for each in await tolerant(session)["conversations"].aggregate(pipeline):
            yield Group(count=each["count"], example=failed_letter(each["newest"] | each["_id"]))


async def _failed_queries(session: Session, selection: Selection) -> AsyncIterator[Document]:
    """Give queries that have an index: campaign by campaign, the longest failed first."""
    if selection.reason and selection.reason not in FAILURES:
        return
    query: Document = {
        "status": ConversationStatus.FAILED.value,
        "status_since": {"$lte": selection.until},
    }
    if selection.reason:
        query["exit_reason"] = selection.reason
    async for campaigns in campaign_ids(session, selection.campaign, {}):
        yield {"campaign_id": {"$in": campaigns}} | query


def _age(letter: Letter) -> float:
    return letter.at.timestamp() if isinstance(letter.at, datetime) else 0.0


def _problem(document: Mapping[str, Any]) -> str | None:
    problems = document.get("problems") or ()
    listed = "; ".join(str(problem) for problem in problems[:3]) if problems else None
    return document.get("reason") or listed
