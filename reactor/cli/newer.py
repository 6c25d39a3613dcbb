"""How many documents a newer worker wrote, which this one leaves alone."""

from collections.abc import Mapping

from reactor.cli.session import Session
from reactor.indexes import NEWER

COLLECTIONS = ("campaigns", "conversations")


async def newer_documents(session: Session, campaign_id: object = None) -> Mapping[str, int]:
    """Count them by collection, of a campaign or of all; nothing where there are none."""
    counts = {}
    for collection in COLLECTIONS:
        owner = "_id" if collection == "campaigns" else "campaign_id"
        query = NEWER if campaign_id is None else {**NEWER, owner: campaign_id}
        counts[collection] = await session.database[collection].count_documents(query)
    return {collection: count for collection, count in counts.items() if count}


def spelled(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{collection} {count}" for collection, count in counts.items())
