"""How every call to the database is made: bounded in time, and never cut through by a cancellation."""

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any

import anyio
import pymongo
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from reactor.store.protocol import StoreUnavailableError

#: Rides out an election: retryable writes are retried until then.
SECONDS = 20.0
#: For what reads or writes much at once.
LONG_SECONDS = 60.0
#: The server is in no state to answer: stepping down, shutting down, without a majority, too slow.
NO_STATE = frozenset(
    {6, 7, 50, 64, 89, 91, 112, 133, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436}
)


def is_unavailable(error: PyMongoError) -> bool:
    """Say whether the database, not the document, is why a call failed: the result is unknown."""
    if isinstance(error, ConnectionFailure | ExecutionTimeout | WriteConcernError) or error.timeout:
        return True
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        return not details.get("writeErrors") and bool(details.get("writeConcernErrors"))
    return isinstance(error, OperationFailure) and error.code in NO_STATE


def call[**P, T](
    method: Callable[P, Awaitable[T]], seconds: float = SECONDS
) -> Callable[P, Coroutine[Any, Any, T]]:
    """
    Bound a method in time and shield it; what is the database's trouble is StoreUnavailableError.

    The message names the error's class only: a text may quote a document.
    """

    @wraps(method)
    async def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
        with anyio.CancelScope(shield=True), pymongo.timeout(seconds):
            try:
                return await method(*args, **kwargs)
            except PyMongoError as error:
                if not is_unavailable(error):
                    raise
                raise StoreUnavailableError(type(error).__name__) from error
        raise StoreUnavailableError("cancelled")  # the scope is shielded: only a type checker asks

    return bounded


def long_call[**P, T](method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Like `call`, for what may take longer."""
    return call(method, LONG_SECONDS)
