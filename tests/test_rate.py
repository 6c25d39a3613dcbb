"""A channel's rate holds for all workers together, second by second."""

import time
from collections import Counter

from tests.builders import batch_request_document, recipient_document, template_document
from tests.receivers.running import http_receiver
from tests.workers import workers

RATE, BURST, MESSAGES = 100, 25, 900
TEMPLATE = template_document(
    stages=[{"id": "intro", "message": {"body": "Hello {{ recipient.first_name }}"}, "final": True}]
)


def test_four_workers_keep_to_one_rate(mongodb_uri, mongodb_client, database_name, tmp_path):
    """No second has more than the rate and the burst, and nothing is lost for it."""
    database = mongodb_client[database_name]
    with (
        http_receiver(tmp_path) as receiver,
        workers(
            4,
            mongodb_uri,
            database_name,
            tmp_path,
            CHANNEL_EMAIL=receiver.url,
            CHANNEL_EMAIL_ALLOW_PRIVATE="1",
            CHANNEL_EMAIL_RATE=f"{RATE}/s",
            CHANNEL_EMAIL_BURST=str(BURST),
        ),
    ):
        people = [recipient_document(f"r{n}") for n in range(MESSAGES)]
        database.batch_requests.insert_one(batch_request_document(people, template=TEMPLATE))
        deadline = time.monotonic() + 120
        while not database.campaigns.find_one({"completed_at": {"$ne": None}}):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    requests = receiver.requests()
    keys = Counter(one["key"] for one in requests)
    assert len(keys) == keys.total() == MESSAGES
    times = sorted(one["at"] for one in requests)
    per_second = Counter(int(at) for at in times)
    assert max(per_second.values()) <= RATE + BURST
    # A limit that is never reached is none: bench/rate.py says how close to it this comes.
    assert MESSAGES / (times[-1] - times[0]) > RATE / 3
    assert database.messages.count_documents({"status": "sent", "attempts": 1}) == MESSAGES
