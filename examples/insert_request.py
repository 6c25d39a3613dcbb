"""Inserts a batch request with PyMongo, and waits for the worker's answer."""

import os
import time

from pymongo import MongoClient, WriteConcern
from pymongo.errors import ConnectionFailure, DuplicateKeyError, WriteConcernError

REQUEST = {
    "_id": "hello-python-1",  # its identity for ever: make it from what the request is
    "schema_version": 1,
    "name": "Hello from Python",
    "type": "hello",
    "template": {
        "name": "hello",
        "channel": "email",
        "stages": [
            {
                "id": "hello",
                "message": {
                    "subject": "Hello, {{ recipient.first_name }}",
                    "body": "Hello {{ recipient.first_name }}, is this thing on?",
                },
                "reply_within": "2d",
            },
        ],
    },
    "recipients": [
        {
            "id": "ada",
            "address": {"email": "ada@example.com"},
            "attributes": {"first_name": "Ada"},
        },
    ],
}

client = MongoClient(
    os.environ.get("MONGODB_URI", "mongodb://127.0.0.1:27017/?directConnection=true")
)
database = client[os.environ.get("MONGODB_DB", "reactor")]
requests = database.get_collection("batch_requests", write_concern=WriteConcern("majority"))

while True:
    try:
        requests.insert_one(REQUEST)
    except DuplicateKeyError:
        pass  # it is there: this try, or an earlier one, has inserted it
    except (ConnectionFailure, WriteConcernError):
        time.sleep(1)  # nobody knows what came of it: once more
        continue
    break

answer = requests.find_one({"_id": REQUEST["_id"]})
while "status" not in answer:
    time.sleep(0.1)
    answer = requests.find_one({"_id": REQUEST["_id"]})
print(answer["status"], answer.get("campaign_id"), answer.get("problems"))
