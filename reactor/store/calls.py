"""How every call to the database is made: bounded in time, and never cut through by a cancellation."""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any

import anyio
import pymongo
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from reactor.store.protocol import StoreRefusedError, StoreUnavailableError

#: Rides out an election: retryable writes are retried until then.
SECONDS = 20.0
#: For what reads or writes much at once.
LONG_SECONDS = 60.0
#: Tries of a write whose connection broke, where writing it twice changes nothing.
TRIES = 3
#: The server is in no state to answer: stepping down, shutting down, without a majority, too slow.
NO_STATE = frozenset(
    {6, 7, 43, 50, 64, 89, 91, 100, 112, 133, 134, 175, 189, 202, 237, 262, 9001}
    | {10058, 10107, 11600, 11601, 11602, 13435, 13436}
)


def is_unavailable(error: PyMongoError) -> bool:
    """Say whether the database, not the document, is why a call failed: the result is unknown."""
    if isinstance(error, ConnectionFailure | ExecutionTimeout | WriteConcernError) or error.timeout:
        return True
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        codes = write_errors(error)
        return bool(details.get("writeConcernErrors")) or NO_STATE.issuperset(codes)
    return isinstance(error, OperationFailure) and error.code in NO_STATE


def write_errors(error: BulkWriteError) -> frozenset[int]:
    """Give the codes of what a bulk was refused for."""
    return frozenset(each["code"] for each in (error.details or {}).get("writeErrors", ()))


async def repeated[T](write: Callable[[], Awaitable[T]]) -> T:
    """Write again where the connection broke: PyMongo does not, for many documents at once."""
    for _ in range(TRIES - 1):
        with suppress(AutoReconnect):
            return await write()
    return await write()


def call[**P, T](
    method: Callable[P, Awaitable[T]], seconds: float = SECONDS
) -> Callable[P, Coroutine[Any, Any, T]]:
    """
    Bound a method in time and shield it; what is the database's trouble is StoreUnavailableError.

    The message names class and code only, and nothing is chained: a text may quote a document.
    """

    @wraps(method)
    async def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
        with anyio.CancelScope(shield=True), pymongo.timeout(seconds):
            try:
                return await method(*args, **kwargs)
            except PyMongoError as error:
                ours = StoreUnavailableError if is_unavailable(error) else StoreRefusedError
                raise ours(_name(error)) from None
        raise StoreUnavailableError("cancelled")  # the scope is shielded: only a type checker asks

    return bounded


def _name(error: PyMongoError) -> str:
    codes = set(write_errors(error)) if isinstance(error, BulkWriteError) else set()
    if isinstance(error, OperationFailure) and error.code is not None:
        codes.add(error.code)
    return " ".join([type(error).__name__, *map(str, sorted(codes))])


def long_call[**P, T](method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Like `call`, for what may take longer."""
    return call(method, LONG_SECONDS)
