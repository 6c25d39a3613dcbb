"""
The agent: inserts what the script says, until each of it is acknowledged by the majority.

    python -m tests.chaos.agent URI DATABASE SEED SECONDS CONVERSATIONS LOG

What was acknowledged becomes a line of LOG: its collection, its `_id`, when (Unix time), and how often
it had to be tried. It ends when all is done.
"""

import json
import sys
import time
from pathlib import Path

import pymongo
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern

from tests.chaos.script import Script

TRY_SECONDS = 5
AGAIN_SECONDS = 0.2


def do(database, deed):
    """Try once; true if it is there, and stays."""
    collection = database[deed.collection]
    with pymongo.timeout(TRY_SECONDS):
        try:
            if deed.how == "anew":
                collection.replace_one({"_id": deed.id}, deed.document, upsert=True)
            else:
                collection.insert_one(deed.document)
        except DuplicateKeyError:
            # There, but maybe only on a primary that was cut off: ask what the majority has.
            settled = collection.with_options(read_concern=ReadConcern("majority"))
            return settled.find_one({"_id": deed.id}, {"_id": 1}) is not None
    return True


def insist(database, deed):
    """Try until it is acknowledged, and give how often."""
    tries = 1
    while True:
        try:
            if do(database, deed):
                return tries
        except PyMongoError:
            pass
        tries += 1
        time.sleep(AGAIN_SECONDS)


def main():
    """Do all deeds in their order."""
    uri, name, seed, seconds, conversations, log = sys.argv[1:]
    script = Script(int(seed), float(seconds), int(conversations))
    began = time.monotonic()
    with (
        MongoClient(
            uri, w="majority", connectTimeoutMS=2_000, heartbeatFrequencyMS=2_000
        ) as client,
        Path(log).open("a", buffering=1, encoding="utf-8") as lines,
    ):
        for deed in script.deeds:
            time.sleep(max(0.0, began + deed.at - time.monotonic()))
            tries = insist(client[name], deed)
            line = {"collection": deed.collection, "_id": deed.id, "how": deed.how}
            lines.write(json.dumps(line | {"at": time.time(), "tries": tries}) + "\n")


if __name__ == "__main__":
    main()
