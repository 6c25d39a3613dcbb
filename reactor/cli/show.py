"""`reactor show`: one conversation, with all that has happened in it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from attrs import frozen
from rich.console import Group, RenderableType

from reactor.cli.find import the_conversation
from reactor.cli.output import columns, moment, pairs, print_json, print_view, text
from reactor.cli.session import Document, Session, with_session
from reactor.store.raw import GLANCE

#: What people wrote to each other: shown only when asked for.
TEXTS = (
    *("reply.text", "slot.text", "slot.reply.text", "slot.thread.reply.text"),
    *("visit.thread.reply.text", "unsent.text"),
)
MESSAGE_TEXTS = ("subject", "body", "html")
UPDATE_TEXTS = ("text", "message")
MAX_UPDATES = 100


@frozen(kw_only=True)
class View:
    conversation: Document
    #: Entries of the ledger, in the order of their send keys' numbers.
    messages: Sequence[Document]
    #: Updates that no worker has answered yet.
    unanswered: Sequence[Document]


@click.command()
@click.argument("conversation")
@click.option("--content", is_flag=True, help="Show the texts of messages and replies too.")
@click.option("--json", "as_json", is_flag=True, help="Print one document of Extended JSON.")
def show(conversation: str, *, content: bool, as_json: bool) -> None:
    """
    Show one conversation.

    Its state, what it waits for and until when, its history, its messages and what became of them.

    CONVERSATION is its id, the first 4 or more characters of it, or BATCH_REQUEST/RECIPIENT.
    """
    _show(conversation, content=content, as_json=as_json)


@with_session
async def _show(session: Session, reference: str, *, content: bool, as_json: bool) -> None:
    view = await read_view(session, reference, content=content)
    if as_json:
        print_json(
            {
                "conversation": view.conversation,
                "messages": view.messages,
                "unanswered_updates": view.unanswered,
            }
        )
    else:
        print_view(render_view(view, session.now))


async def read_view(session: Session, reference: str, *, content: bool) -> View:
    """Read a conversation with its messages; texts only where content is asked for."""

    def without(texts: Sequence[str]) -> dict[str, int] | None:
        return None if content else dict.fromkeys(texts, 0)

    # A text that is no UTF-8 hides nothing else.
    database = session.database.with_options(codec_options=GLANCE)
    conversation = await the_conversation(database, reference, without(TEXTS))
    of_it = {"conversation_id": conversation["_id"]}
    messages = await database["messages"].find(of_it, without(MESSAGE_TEXTS)).to_list()
    waiting = {
        "status": {"$exists": False},
        "$or": [
            of_it,
            {
                "batch_request_id": conversation.get("batch_request_id"),
                "recipient_id": (conversation.get("recipient") or {}).get("id"),
            },
        ],
    }
    updates = database["conversation_updates"].find(waiting, without(UPDATE_TEXTS))
    return View(
        conversation=conversation,
        messages=sorted(messages, key=_number),
        unanswered=await updates.limit(MAX_UPDATES).to_list(),
    )


def _number(message: Mapping[str, Any]) -> int:
    """Give n of a send key `conversation/stage/n`."""
    number = str(message["_id"]).rpartition("/")[2]
    return int(number) if number.isdigit() else -1


def render_view(view: View, now: datetime) -> RenderableType:
    parts: list[RenderableType] = [pairs(_facts(view.conversation, now)), "", "History"]
    parts.append(_history(view.conversation.get("history") or (), now))
    parts += ["", "Messages", _messages(view.messages, now) if view.messages else "  none"]
    for message in view.messages:
        parts += _content(message)
    if view.unanswered:
        parts += ["", "Updates that wait for a worker"]
        parts += [f"  {text(each.get('kind'))}  {text(each['_id'])}" for each in view.unanswered]
    return Group(*parts)


def _facts(conversation: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, object]]:
    recipient = conversation.get("recipient") or {}
    addresses = (recipient.get("address") or {}).items()
    yield "Conversation", conversation["_id"]
    yield "Campaign", conversation.get("campaign_id")
    yield "Batch request", conversation.get("batch_request_id")
    yield "Recipient", recipient.get("id")
    yield "Addresses", ", ".join(f"{kind}:{address}" for kind, address in addresses)
    yield "Status", conversation.get("status")
    yield "Since", moment(conversation.get("status_since"), now)
    yield "Exit reason", conversation.get("exit_reason")
    yield "Stage", conversation.get("stage")
    yield "Follow-ups sent", conversation.get("follow_ups_sent")
    yield "Waits for", ", ".join(conversation.get("waiting_for") or ())
    yield "Until", moment(conversation.get("due_at"), now)
    yield "Deadline", moment(conversation.get("deadline_at"), now)
    yield from _reply(conversation.get("reply") or {}, now)
    yield from _slot(conversation.get("slot") or {}, now)
    yield "Last error", conversation.get("last_error")


def _reply(reply: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, object]]:
    if reply:
        yield "Last reply", f"{moment(reply.get('at'), now)}, intent {reply.get('intent')}"
        yield "Reply's text", reply.get("text")


def _slot(slot: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, object]]:
    if slot:
        attempts = slot.get("attempts", 0)
        yield "On its way", f"{slot.get('stage')}/{slot.get('n')} by {slot.get('channel')}"
        yield "", f"{slot.get('state')}, attempt {attempts}, until {moment(slot.get('until'), now)}"


def _history(history: Sequence[Mapping[str, Any]], now: datetime) -> RenderableType:
    table = columns("at", "reason", "stage", "by")
    for entry in history:
        table.add_row(
            moment(entry.get("at"), now),
            text(entry.get("reason")),
            text(entry.get("stage")),
            text(entry.get("by")),
        )
    return table


def _messages(messages: Sequence[Mapping[str, Any]], now: datetime) -> RenderableType:
    table = columns(
        "n", "stage", "channel", "status", "attempts", "sent", "why", right=["n", "attempts"]
    )
    for message in messages:
        _, _, stage_and_n = str(message["_id"]).partition("/")
        stage, _, n = stage_and_n.rpartition("/")
        table.add_row(
            n,
            text(stage),
            text(message.get("channel")),
            text(message.get("status")),
            text(message.get("attempts")),
            moment(message.get("sent_at"), now),
            text(message.get("error") or message.get("reason")),
        )
    return table


def _content(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message's text, indented; nothing where it was not asked for."""
    if "body" not in message and "subject" not in message:
        return
    yield ""
    yield f"  {text(message['_id'])}"
    if message.get("subject"):
        yield f"  Subject: {text(message['subject'])}"
    for line in str(message.get("body") or "").splitlines():
        yield f"  | {text(line)}"
