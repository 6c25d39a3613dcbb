"""The documents behind a finding, and what the receiver knows of them, as lines to read."""

from pprint import pformat

SHOWN = 3
COLLECTIONS = (
    *("campaigns", "conversations", "batch_requests"),
    *("conversation_updates", "campaign_updates"),
)
HIDDEN = {"template": 0, "recipients": 0, "recipient.attributes": 0, "text": 0, "metadata": 0}


def evidence(database, requests, suspects):
    """Show what is known about the first suspects: send keys, ids of conversations, or of anything."""
    whose = [str(one).partition("/")[0] for one in suspects]
    return [line for one in dict.fromkeys(whose[:SHOWN]) for line in about(database, requests, one)]


def about(database, requests, identity):
    """Show a document with that id, and all that belongs to its conversation."""
    yield f"--- {identity}"
    for collection in COLLECTIONS:
        yield from map(pformat, database[collection].find({"_id": identity}, HIDDEN))
    of = {"conversation_id": identity}
    yield from map(pformat, database.messages.find(of, {"body": 0, "html": 0}))
    if conversation := database.conversations.find_one({"_id": identity}):
        whom = {
            "batch_request_id": conversation["batch_request_id"],
            "recipient_id": conversation["recipient"]["id"],
        }
        yield from map(pformat, database.conversation_updates.find({"$or": [of, whom]}))
    for line in requests:
        if line["key"].startswith(f"{identity}/"):
            yield f"handed off at {line['at']}: {line['key']} {line['mode']} {line['sha256'][:8]}"
