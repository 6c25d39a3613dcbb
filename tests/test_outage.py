"""A provider that is down for an hour of campaign time: nothing is lost, nothing else notices."""

import time
from collections import Counter
from datetime import UTC, datetime

import pytest

from tests.builders import batch_request_document, recipient_document, template_document
from tests.receivers.running import http_receiver
from tests.workers import workers

#: An hour is a quarter of a minute.
SCALE = 240
HOUR_SECONDS = 3_600 / SCALE
RATE, BURST = 40, 10
TEMPLATE = {
    "stages": [
        {
            "id": "intro",
            "message": {"subject": "Your plan", "body": "Hello {{ recipient.first_name }}"},
            "final": True,
        }
    ],
    "max_duration": "7d",
    "retry": {"max_attempts": 3},
}


def request(name, count, channel):
    """Make a request to so many people through a channel."""
    people = [
        recipient_document(f"r{n}", address={channel: ADDRESSES[channel].format(name=name, n=n)})
        for n in range(count)
    ]
    template = template_document(channel=channel, **TEMPLATE)
    return batch_request_document(people, _id=name, template=template)


ADDRESSES = {"email": "{name}{n}@example.com", "sms": "+49151{n:08}"}


def until(condition, seconds):
    """Wait until a condition holds, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, condition.__doc__
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("down", ["refuse", "503"])
def test_an_hour_costs_no_conversation(mongodb_uri, mongodb_client, database_name, tmp_path, down):
    """Neither of a campaign of ten nor of a large one; then no burst; another channel goes on."""
    database = mongodb_client[database_name]
    for directory in ("email", "sms"):
        (tmp_path / directory).mkdir()
    with (
        http_receiver(tmp_path / "email") as email,
        http_receiver(tmp_path / "sms") as sms,
        workers(
            2,
            mongodb_uri,
            database_name,
            tmp_path,
            CHANNEL_EMAIL=email.url,
            CHANNEL_EMAIL_ALLOW_PRIVATE="1",
            CHANNEL_EMAIL_RATE=f"{RATE}/s",
            CHANNEL_SMS=sms.url,
            CHANNEL_SMS_ALLOW_PRIVATE="1",
            CAMPAIGN_TIME_SCALE=str(SCALE),
            CAMPAIGN_TIME_EPOCH=datetime.now(UTC).isoformat(),
            # Within it the receiver that is gone must be noticed, and a lease be over.
            CHANNEL_TIMEOUT_SECONDS="1",
            LEASE_SECONDS="3",
        ),
    ):
        email.set_mode(down)
        for name, count, channel in (("ten", 10, "email"), ("many", 400, "email")):
            database.batch_requests.insert_one(request(name, count, channel))
        until(lambda: database.alerts.find_one({"resolved_at": None}), 30)
        began = time.monotonic()
        database.batch_requests.insert_one(request("others", 200, "sms"))
        others = {"batch_request_id": "others", "completed_at": {"$ne": None}}
        until(lambda: database.campaigns.find_one(others), 20)
        time.sleep(max(0.0, HOUR_SECONDS - (time.monotonic() - began)))  # the hour itself
        assert database.conversations.count_documents({"status": "failed"}) == 0
        assert database.channels.find_one({"_id": "email"})["circuit"]["state"] != "closed"
        email.set_mode("ok")
        done = {"completed_at": {"$ne": None}}
        until(lambda: database.campaigns.count_documents(done) == 3, 60)
    exits = Counter(one["exit_reason"] for one in database.conversations.find())
    assert exits == {"final_stage": 610}
    (alert,) = database.alerts.find()
    assert (alert["kind"], alert["channel"]) == ("circuit_opened", "email")
    assert alert["resolved_at"] is not None
    requests = email.requests()
    accepted = Counter(one["key"] for one in requests if one["accepted"])
    assert len(accepted) == accepted.total() == 410
    assert most_in_a_second([one["at"] for one in requests]) <= RATE + BURST
    assert len(sms.requests()) == 200


def most_in_a_second(times):
    """Give how many came in the fullest calendar second."""
    return max(Counter(int(at) for at in times).values())
