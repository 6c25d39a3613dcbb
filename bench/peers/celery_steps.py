"""
Celery, with Redis for its broker and the state in the same mongod: a task for each conversation.

Run by bench/peers/contestants.py, with a Python of its own: URI DATABASE STEP_FILE SOCKET. It says
"ready", begins at a line, and stops at the end of its input.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import bson
from celery import Celery
from celery.signals import worker_process_init
from pymongo import MongoClient

QUEUE = "steps"
PROCESSES, PREFETCHED = 8, 64
#: The worker is a process of Celery's own making: it reads here what the program was told.
URI, NAME, STEP_FILE, SOCKET = json.loads(os.environ.setdefault("TOLD", json.dumps(sys.argv[1:])))
STEP = bson.decode(Path(STEP_FILE).read_bytes())

app = Celery("bench", broker=f"redis+socket://{SOCKET}")
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    # A worker that dies loses no task: so it is with the others.
    task_acks_late=True,
    worker_prefetch_multiplier=PREFETCHED,
)


def database():
    return MongoClient(URI, w="majority")[NAME]


@worker_process_init.connect
def connect(**_):
    """Give each process of the worker a client of its own, connected."""
    app.database = database()
    app.database.client.admin.command("ping")


@app.task(name="step")
def step(identity, recipient, key):
    guard = {"_id": identity, "version": 0}
    if not app.database.conversations.update_one(guard, STEP["clear"]).matched_count:
        return
    entry = STEP["entry"] | {
        "_id": f"{identity}/{STEP['entry']['_id'].partition('/')[2]}",
        "conversation_id": identity,
        "recipient_id": recipient,
        "address": key,
        "to": key.partition(":")[2],
    }
    app.database.messages.insert_one(entry)


def main():
    """Fill the queue, start a worker that does not look at it yet, and let it."""
    fields = {"recipient.id": 1, "address_keys": 1}
    with app.producer_pool.acquire(block=True) as producer:
        for one in database().conversations.find({}, fields):
            arguments = (one["_id"], one["recipient"]["id"], *one["address_keys"])
            step.apply_async(arguments, producer=producer)
    options = ["-c", str(PROCESSES), "-Q", "idle", "-l", "ERROR", "--without-gossip"]
    options += ["--without-mingle", "--without-heartbeat"]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "celery",
        "-A",
        "celery_steps",
        "worker",
        *options,
    ]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not app.control.ping(timeout=0.2):
            time.sleep(0.05)
        print("ready", flush=True)
        sys.stdin.readline()
        app.control.add_consumer(QUEUE)
        sys.stdin.read()
    finally:
        worker.terminate()
        worker.wait(30)
