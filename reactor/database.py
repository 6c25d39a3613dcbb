"""Clients: with time-outs that are set, so that a frozen server costs seconds and hangs nobody."""

from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from pymongo.driver_info import DriverInfo

import reactor
from schemas.documents import CODEC

#: A primary that is frozen is given up after 2 s of silence, not 20.
OPTIONS: dict[str, Any] = {
    "connectTimeoutMS": 2_000,
    "heartbeatFrequencyMS": 2_000,
    "serverSelectionTimeoutMS": 10_000,
    "waitQueueTimeoutMS": 5_000,
    "retryWrites": True,
    "w": "majority",
    "driver": DriverInfo("reactor", reactor.__version__),
}


def connect(uri: str, *, worker: str, **options: Any) -> AsyncMongoClient[dict[str, Any]]:
    """Make a client; it connects when it is first used, and is closed by whoever made it."""
    return AsyncMongoClient(
        uri,
        **OPTIONS | {"appname": f"reactor/{worker}"[:128]} | options,
        tz_aware=True,
        tzinfo=CODEC.tzinfo,
        uuidRepresentation="standard",
        datetime_conversion="DATETIME_AUTO",
    )


def connect_listener(uri: str, *, worker: str) -> AsyncMongoClient[RawBSONDocument]:
    """Make a client for a change stream alone: an await of it must not starve the work."""
    return AsyncMongoClient(
        uri,
        **OPTIONS | {"appname": f"reactor/{worker}/listener"[:128], "maxPoolSize": 2},
        document_class=RawBSONDocument,
        unicode_decode_error_handler="replace",
        datetime_conversion="DATETIME_MS",
        uuidRepresentation="standard",
    )
