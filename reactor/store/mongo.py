"""The store on MongoDB: its parts in one."""

from reactor.store.mongo_campaigns import MongoCampaigns
from reactor.store.mongo_channels import MongoChannels
from reactor.store.mongo_inbox import MongoInbox
from reactor.store.mongo_ledger import MongoLedger
from reactor.store.mongo_members import MongoMembers
from reactor.store.mongo_retention import MongoRetention


class MongoStore(
    MongoInbox, MongoCampaigns, MongoChannels, MongoLedger, MongoMembers, MongoRetention
):
    """Keeps the contract of `reactor.store.protocol.Store` on a replica set."""
