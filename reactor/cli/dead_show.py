"""`reactor dead show`: what is to be known of a dead letter before one decides."""

import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType

from reactor.cli.find_letter import the_letter
from reactor.cli.letters import INBOXES, Kind, Letter, tolerant
from reactor.cli.output import moment, pairs, print_json, print_view, text
from reactor.cli.session import Document, Session, with_session
from reactor.cli.show import read_view, render_view
from reactor.store.hints import hint_of

#: What people wrote, and what is long: shown only when asked for, and never.
TEXTS = ("text", "message", "metadata")
LONG = ("template", "recipients")
ADVICE = {
    Kind.REQUEST: "Once it is mended, or a worker is newer:",
    Kind.UPDATE: "Once it is mended, or a worker is newer:",
    Kind.CAMPAIGN_UPDATE: "Once it is mended, or a worker is newer:",
    Kind.CONVERSATION: "Once the cause is gone:",
    Kind.MESSAGE: "Ask the provider, by the send key, whether it came. If not:",
}


@with_session
async def show_letter(session: Session, reference: str, *, content: bool, as_json: bool) -> None:
    letter = await the_letter(session, reference)
    if letter.kind in INBOXES:
        await _show_parked(session, letter, content=content, as_json=as_json)
        return
    identity = letter.held.conversation if letter.held else letter.id
    view = await read_view(session, identity, content=content)
    if as_json:
        print_json(
            letter.document() | {"conversation": view.conversation, "messages": view.messages}
        )
        return
    print_view(Group(_head(letter, session.now), "", render_view(view, session.now), *_end(letter)))


async def _show_parked(session: Session, letter: Letter, *, content: bool, as_json: bool) -> None:
    hidden = LONG if content else (*LONG, *TEXTS)
    inbox = tolerant(session)[INBOXES[letter.kind]]
    document = await inbox.find_one({"_id": {"$eq": letter.id}}, dict.fromkeys(hidden, 0)) or {}
    conversation = await _conversation(session, letter.kind, document)
    if as_json:
        print_json(letter.document() | {"document": document, "conversation": conversation})
        return
    rows = [*_fields(document, session.now)]
    if conversation:
        said = f"{conversation['_id']}, {text(conversation.get('status'))}"
        rows.append(("Its conversation", said))
    print_view(Group(_head(letter, session.now), "", pairs(rows), *_end(letter)))


async def _conversation(
    session: Session, kind: Kind, document: Mapping[str, Any]
) -> Document | None:
    """Read where the conversation stands that an update is about."""
    hint = hint_of(INBOXES[kind], document, b"")
    if not hint.conversation_id:
        return None
    fields = {"status": 1, "stage": 1, "status_since": 1}
    return await session.database["conversations"].find_one({"_id": hint.conversation_id}, fields)


def _head(letter: Letter, now: datetime) -> RenderableType:
    return pairs(
        [
            ("Dead letter", f"{letter.kind.value}, {letter.reason}"),
            ("Id", letter.id),
            ("Since", moment(letter.at, now)),
            ("Error", letter.error),
        ]
    )


def _fields(document: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, object]]:
    """Yield the fields as they are called in the document; of lists an entry each."""
    for name, value in document.items():
        if name == "_id":
            continue
        if isinstance(value, list):
            yield from ((name if not place else "", each) for place, each in enumerate(value))
        else:
            yield name, moment(value, now)


def _end(letter: Letter) -> Iterator[str]:
    identity = letter.held.conversation if letter.held else letter.id
    named = shlex.quote(text(identity))
    # An id of ours may begin like an option.
    named = f"-- {named}" if named.startswith("-") else named
    yield ""
    yield ADVICE[letter.kind]
    yield f"  reactor dead retry {named}"
    if letter.kind is Kind.MESSAGE:
        yield "If it did:"
        yield f"  reactor unknown assume-sent {named}"
