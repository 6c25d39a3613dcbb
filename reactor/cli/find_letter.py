"""What a person means by a dead letter: an id of whatever kind, or KIND:ID."""

from reactor.cli.failure import NotFoundFailure
from reactor.cli.find import ambiguous, find_conversations, request_ids
from reactor.cli.held import FIELDS as HELD_FIELDS
from reactor.cli.held import held_of
from reactor.cli.letters import (
    FAILED_FIELDS,
    INBOXES,
    PARKED,
    PARKED_FIELDS,
    Kind,
    Letter,
    failed_letter,
    held_letter,
    parked_letters,
    tolerant,
)
from reactor.cli.output import text
from reactor.cli.session import Document, Session
from schemas.conversation import ConversationStatus
from schemas.evolving import evolve

_CONVERSATION = HELD_FIELDS | dict.fromkeys(FAILED_FIELDS, 1)


async def the_letter(session: Session, reference: str) -> Letter:
    """Find one dead letter. `Failure`: there is none, or more than one."""
    found, living = await _candidates(session, reference)
    kind, colon, identity = reference.partition(":")
    if not found and colon and kind in tuple(Kind):
        found, living = await _candidates(session, identity)
        found = [letter for letter in found if letter.kind == kind]
    if len(found) > 1:
        raise ambiguous(
            reference, [f"{each.kind.value}:{text(each.id)}  {text(each.error)}" for each in found]
        )
    if found:
        return found[0]
    if living:
        said = f"conversation {living[0]['_id']} is {text(living[0].get('status'))}"
        raise NotFoundFailure(f"{said}: no dead letter, and nothing of it is held")
    raise NotFoundFailure(
        f"no dead letter {text(reference)!r} here (`reactor dead list --each` has them all)"
    )


async def _candidates(session: Session, reference: str) -> tuple[list[Letter], list[Document]]:
    """Give the letters that it may mean, and the conversations that it may mean but are none."""
    found: list[Letter] = []
    for kind, inbox in INBOXES.items():
        query = {"_id": {"$in": list(request_ids(reference))}, "status": PARKED}
        cursor = tolerant(session)[inbox].find(query, dict.fromkeys(PARKED_FIELDS, 1))
        found += await parked_letters(session, kind, await cursor.to_list())
    living = []
    for conversation in await _conversations(session, reference):
        held = held_of(conversation)
        if held:
            entry = await session.database["messages"].find_one(
                {"_id": held.key}, {"recorded_at": 1}
            )
            found.append(held_letter(evolve(held, since=(entry or {}).get("recorded_at"))))
        elif conversation.get("status") == ConversationStatus.FAILED.value:
            found.append(failed_letter(conversation))
        else:
            living.append(conversation)
    return found, living


async def _conversations(session: Session, reference: str) -> list[Document]:
    database = tolerant(session)
    # A send key begins with the conversation's id, which has no slash. Its message may have failed
    # with the conversation, or be held.
    owner, slash, _ = reference.partition("/")
    by_key = await database["conversations"].find_one({"_id": owner}, _CONVERSATION)
    if slash and by_key:
        held = held_of(by_key)
        return [by_key] if held is None or held.key == reference else []
    return await find_conversations(database, reference, _CONVERSATION)
