"""Indexes: every query of the walk is a scan of one of these."""

from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.database import AsyncDatabase

from schemas.problems import SCHEMA_VERSION


@frozen(kw_only=True)
class Index:
    collection: str
    keys: tuple[str, ...]
    unique: bool = False
    #: Seconds after which the server removes what has this date.
    expires: int | None = None
    partial: Mapping[str, Any] = Factory(dict)

    @property
    def name(self) -> str:
        return "_".join(key.replace(".", "_") for key in self.keys)

    def model(self) -> IndexModel:
        options: dict[str, Any] = {"unique": True} if self.unique else {}
        if self.expires is not None:
            options["expireAfterSeconds"] = self.expires
        if self.partial:
            options["partialFilterExpression"] = dict(self.partial)
        return IndexModel([(key, ASCENDING) for key in self.keys], name=self.name, **options)


#: What was given up, for whoever looks for it.
PARKED = {"status": "parked"}
#: A document that is not answered has no `status`, or null. What is answered is in none of these.
UNANSWERED = {"status": None}
#: An update that is answered says when.
ANSWERED = {"applied_at": {"$type": "date"}}
#: Written by a newer worker.
NEWER = {"schema_version": {"$gt": SCHEMA_VERSION}}

INDEXES = (
    Index(collection="batch_requests", keys=("due_at",), partial=UNANSWERED),
    Index(collection="batch_recipients", keys=("batch_request_id", "_id")),
    Index(collection="campaign_templates", keys=("name", "version"), unique=True),
    Index(collection="conversation_updates", keys=("due_at",), partial=UNANSWERED),
    Index(collection="conversation_updates", keys=("conversation_id",), partial=UNANSWERED),
    Index(
        collection="conversation_updates",
        keys=("batch_request_id", "recipient_id"),
        partial=UNANSWERED,
    ),
    Index(collection="campaign_updates", keys=("due_at",), partial=UNANSWERED),
    Index(collection="campaign_updates", keys=("campaign_id",), partial=UNANSWERED),
    Index(collection="campaign_updates", keys=("batch_request_id",), partial=UNANSWERED),
    *(
        Index(collection=inbox, keys=("status",), partial=PARKED)
        for inbox in ("batch_requests", "conversation_updates", "campaign_updates")
    ),
    # By whom they were about, for their removal.
    *(
        Index(collection=inbox, keys=(whom, "applied_at"), partial=ANSWERED)
        for inbox, whom in (
            ("conversation_updates", "batch_request_id"),
            ("conversation_updates", "conversation_id"),
            ("campaign_updates", "batch_request_id"),
            ("campaign_updates", "campaign_id"),
        )
    ),
    Index(collection="campaigns", keys=("completed_at",), partial={"completed_at": None}),
    Index(collection="campaigns", keys=("recount_at",), partial={"recount_at": {"$type": "date"}}),
    Index(collection="campaigns", keys=("batch_request_id",)),
    # Over, and what is personal of it has not all left.
    Index(
        collection="campaigns", keys=("removed_at", "completed_at"), partial={"removed_at": None}
    ),
    # What is closed and settled has no due time, and is not in it.
    Index(
        collection="conversations",
        keys=("campaign_id", "due_at", "bucket"),
        partial={"due_at": {"$type": "date"}},
    ),
    Index(
        collection="conversations",
        keys=("campaign_id", "slot.until"),
        partial={"slot.state": "sending"},
    ),
    # Parked at a channel's gate, in the order in which it fell due.
    Index(
        collection="conversations",
        keys=("campaign_id", "slot.channel", "slot.due_at", "bucket"),
        partial={"slot.held": {"$type": "string"}},
    ),
    # On its way, or in doubt, to whom: for the runaway guard.
    Index(
        collection="conversations",
        keys=("address_keys",),
        partial={"slot.state": {"$type": "string"}},
    ),
    Index(collection="conversations", keys=("campaign_id", "address_keys"), unique=True),
    Index(
        collection="conversations",
        keys=("campaign_id", "status_since"),
        partial={"status": "failed"},
    ),
    # Of a newer version than this one: none, but while a newer worker is about.
    *(
        Index(collection=ours, keys=("schema_version",), partial=NEWER)
        for ours in ("campaigns", "conversations")
    ),
    # Counts are read from the keys alone.
    Index(collection="conversations", keys=("campaign_id", "status", "stage", "exit_reason")),
    Index(collection="messages", keys=("campaign_id", "status")),
    Index(collection="messages", keys=("conversation_id",)),
    Index(collection="messages", keys=("address", "recorded_at", "status")),
    Index(collection="suppressions", keys=("checked",), partial={"checked": None}),
    Index(collection="rejected_recipients", keys=("batch_request_id", "index")),
    # Who died long ago is of no interest.
    Index(collection="workers", keys=("seen_at",), expires=86_400),
)

COLLECTIONS = (
    *dict.fromkeys(index.collection for index in INDEXES),
    "channels",
    "alerts",
)


async def missing_indexes(database: AsyncDatabase[Any]) -> tuple[Index, ...]:
    """Give those that are not there; one with the same name counts as being there."""
    present = {
        (collection, name)
        for collection in COLLECTIONS
        for name in await database[collection].index_information()
    }
    return tuple(index for index in INDEXES if (index.collection, index.name) not in present)


async def ensure_indexes(database: AsyncDatabase[Any]) -> tuple[Index, ...]:
    """Create those that are not there, and say which."""
    missing = await missing_indexes(database)
    for index in missing:
        await database[index.collection].create_indexes([index.model()])
    return missing


async def index_plan(database: AsyncDatabase[Any]) -> tuple[str, ...]:
    """Say in words what `ensure_indexes` would do."""
    return tuple(
        f"create index {index.name} on {index.collection}" + (" (unique)" if index.unique else "")
        for index in await missing_indexes(database)
    )
