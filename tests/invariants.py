"""What must hold (I1 to I9), checked over a database and the channel's own record."""

from collections import Counter

FINAL = {"completed", "failed", "cancelled"}
ACCEPTED = {"sent", "delivered", "bounced"}


def check_invariants(database, lines):
    """Hold a database at rest, and what was handed off, to the invariants."""
    campaigns = {one["_id"]: one for one in database.campaigns.find()}
    conversations = list(database.conversations.find())
    messages = {one["_id"]: one for one in database.messages.find()}
    for campaign in campaigns.values():
        mine = [one for one in conversations if one["campaign_id"] == campaign["_id"]]
        if campaign["removing_since"]:
            continue
        accounting(database, campaign, mine)
        for conversation in mine:
            liveness(campaign, conversation)
            keys(campaign, conversation, messages)
    order(lines)
    honesty(lines, messages)
    suppressions(database, messages)
    nothing_dropped(database)


def accounting(database, campaign, conversations):
    """I1: recipients are rejected or have a conversation; a completed campaign has none open."""
    if campaign["opened"]:
        query = {"batch_request_id": campaign["batch_request_id"]}
        rejected = database.rejected_recipients.count_documents(query)
        assert campaign["recipient_count"] == rejected + len(conversations)
    if campaign["completed_at"]:
        assert all(one["status"] in FINAL and not one["slot"] for one in conversations)
        exits = Counter(one["exit_reason"] for one in conversations)
        assert campaign["counts"]["by_exit_reason"] == exits
        assert campaign["counts"]["open"] == 0
        query = {"campaign_id": campaign["_id"]}
        entries = Counter(one["status"] for one in database.messages.find(query))
        sent = sum(entries[status] for status in ACCEPTED)
        assert campaign["messages"] == {
            "sent": sent,
            "failed": entries["failed"],
            "unknown": entries["unknown"],
            "cancelled": entries["cancelled"],
        }


def liveness(campaign, conversation):
    """I3: what is open is due, no later than its deadline; what is closed and settled is not."""
    if conversation["status"] in FINAL:
        assert (conversation["due_at"] is None) == (conversation["slot"] is None)
        assert conversation["exit_reason"]
        assert not campaign["completed_at"] or conversation["slot"] is None
    else:
        assert conversation["due_at"] <= conversation["deadline_at"]
        assert conversation["deadline_at"] <= campaign["deadline_at"]
        assert conversation["exit_reason"] is None
    assert len(conversation["history"]) <= 50


def keys(campaign, conversation, messages):
    """I2, I9: every key that was reserved is in the ledger or in the slot, once; and they are few."""
    count = conversation["message_count"]
    assert count <= campaign["template"]["max_messages"]
    mine = [key for key in messages if key.startswith(f"{conversation['_id']}/")]
    numbers = sorted(int(key.rsplit("/", 1)[1]) for key in mine)
    slot = conversation["slot"]
    if slot and slot["state"] != "unknown":
        numbers = sorted({*numbers, slot["n"]})
    assert numbers == list(range(count))


def order(lines):
    """I4, I8: no message is handed off before the one before it; one key has one body."""
    last = {}
    bodies = {}
    for line in lines:
        n = int(line["key"].rsplit("/", 1)[1])
        assert n >= last.get(line["conversation_id"], 0)
        last[line["conversation_id"]] = n
        assert bodies.setdefault(line["key"], line) == line


def honesty(lines, messages):
    """I6: what was handed off is nowhere called cancelled; what is called sent was handed off."""
    handed_off = {line["key"] for line in lines}
    for key in handed_off & messages.keys():
        assert messages[key]["status"] != "cancelled"
    for key, message in messages.items():
        if message["status"] in ACCEPTED and message["reason"] != "assume_sent":
            assert key in handed_off
            assert message["body"] is not None


def suppressions(database, messages):
    """I5: nothing is sent to an address after the update that suppressed it was answered."""
    for suppression in database.suppressions.find():
        update = database.conversation_updates.find_one({"_id": suppression.get("by")})
        for message in messages.values():
            if update and message["address"] == suppression["_id"] and message["sent_at"]:
                assert message["sent_at"] <= update["applied_at"]


def nothing_dropped(database):
    """I7: every input is answered, with a reason."""
    for update in database.conversation_updates.find():
        assert update["status"] in {"applied", "ignored", "rejected", "parked"}
        assert update["reason"]
    for request in database.batch_requests.find():
        assert request["status"] in {"accepted", "rejected", "parked"}
        assert request["status"] == "accepted" or request["problems"]
