"""What a person means by a campaign or a conversation: an id, its beginning, a request, a name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from bson.objectid import ObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from reactor.cli.failure import Failure, NotFoundFailure, UsageFailure
from reactor.cli.output import text
from schemas.ids import AgentId, campaign_id, conversation_id

type Document = dict[str, Any]

MIN_PREFIX = 4
#: So many candidates are named when there are several.
CANDIDATES = 5


async def find_campaigns(
    database: AsyncDatabase[Document], reference: str, projection: Mapping[str, int] | None = None
) -> list[Document]:
    """Find what campaigns it may mean: by id or request, else by prefix, else by name."""
    campaigns = database["campaigns"]
    ids = [reference, *(campaign_id(request) for request in request_ids(reference))]
    return (
        await _some(campaigns, {"_id": {"$in": ids}}, projection)
        or await _by_prefix(campaigns, reference, projection)
        or await _some(campaigns, {"name": reference}, projection)
    )


async def find_conversations(
    database: AsyncDatabase[Document], reference: str, projection: Mapping[str, int] | None = None
) -> list[Document]:
    """Find what conversations it may mean: by id or BATCH_REQUEST/RECIPIENT, else by prefix."""
    conversations = database["conversations"]
    ids = [reference, *(conversation_id(*both) for both in _request_and_recipient(reference))]
    return await _some(conversations, {"_id": {"$in": ids}}, projection) or await _by_prefix(
        conversations, reference, projection
    )


async def the_campaign(
    database: AsyncDatabase[Document], reference: str, projection: Mapping[str, int] | None = None
) -> Document:
    """Find one campaign; `Failure` if there is none, or more than one."""
    return only(await find_campaigns(database, reference, projection), "campaign", reference)


async def the_conversation(
    database: AsyncDatabase[Document], reference: str, projection: Mapping[str, int] | None = None
) -> Document:
    """Find one conversation; `Failure` if there is none, or more than one."""
    found = await find_conversations(database, reference, projection)
    if not found:
        await _say_if_removed(database, reference)
    return only(found, "conversation", reference)


async def _say_if_removed(database: AsyncDatabase[Document], reference: str) -> None:
    """Fail where it may have been one of a campaign whose conversations have left."""
    requests = {campaign_id(request) for request, _ in _request_and_recipient(reference)}
    removed = {"_id": {"$in": list(requests)}, "removing_since": {"$type": "date"}}
    for campaign in await _some(database["campaigns"], removed, {"removing_since": 1}):
        since = f"{campaign['removing_since']:%Y-%m-%d}"
        raise NotFoundFailure(
            f"no conversation {text(reference)!r} here: its campaign {campaign['_id']} has long been"
            f" over, and its conversations were removed on {since}"
        )


def not_found(what: str, reference: str) -> Failure:
    ways = "its id, the first 4 or more characters of it, "
    ways += "BATCH_REQUEST/RECIPIENT" if what == "conversation" else "its batch request or its name"
    return NotFoundFailure(f"no {what} {text(reference)!r} here (say {ways})")


def ambiguous(reference: str, candidates: Sequence[str]) -> Failure:
    more = len(candidates) - CANDIDATES
    lines = [f"  {candidate}" for candidate in candidates[:CANDIDATES]]
    if more > 0:
        lines.append("  …")
    several = f"{text(reference)!r} may mean several:"
    return UsageFailure("\n".join([several, *lines]))


def request_ids(reference: str) -> Iterator[AgentId]:
    """Yield the `_id`s that a batch request may have whose `_id` is spelled so."""
    yield reference
    if ObjectId.is_valid(reference):
        yield ObjectId(reference)
    try:
        yield UUID(reference)
    except ValueError:
        return


def _request_and_recipient(reference: str) -> Iterator[tuple[AgentId, str]]:
    """Yield every reading of `request/recipient`; either may have a slash of its own."""
    for position, character in enumerate(reference):
        if character == "/":
            for request in request_ids(reference[:position]):
                yield request, reference[position + 1 :]


async def _some(
    collection: AsyncCollection[Document], query: Document, projection: Mapping[str, int] | None
) -> list[Document]:
    return await collection.find(query, projection).limit(CANDIDATES + 1).to_list()


async def _by_prefix(
    collection: AsyncCollection[Document], prefix: str, projection: Mapping[str, int] | None
) -> list[Document]:
    if len(prefix) < MIN_PREFIX:
        return []
    return await _some(
        collection, {"_id": {"$gte": prefix, "$lt": f"{prefix}\U0010ffff"}}, projection
    )


def only(found: Sequence[Document], what: str, reference: str) -> Document:
    """Give the one that was found; `Failure` if there is none, or more than one."""
    if not found:
        raise not_found(what, reference)
    if len(found) > 1:
        named = (each.get("name") or each.get("batch_request_id") for each in found)
        raise ambiguous(
            reference,
            [f"{each['_id']}  {text(name)}" for each, name in zip(found, named, strict=True)],
        )
    return found[0]
