"""How every command reaches the database: never cut off, never without end, its errors made ours."""

from collections.abc import Awaitable, Callable
from functools import wraps

import pymongo
from anyio import CancelScope
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from reactor.store.protocol import StoreRefusedError, StoreUnavailableError

SECONDS = 15.0
#: For what grows with a campaign: opening, counting, moving on its conversations.
LONG_SECONDS = 60.0
#: Tries of a write whose connection broke, where writing twice changes nothing.
TRIES = 3
DUPLICATE_KEY = 11000

#: The server is no primary (any more), stops, has no majority, or took too long. By number, as
#: error_codes.yml of MongoDB lists them; beside them are the names of those that are no network's.
_UNAVAILABLE = frozenset({6, 7, 89, 202, 9001}) | frozenset(
    {
        43,  # CursorNotFound
        50,  # MaxTimeMSExpired
        64,  # WriteConcernTimeout
        91,  # ShutdownInProgress
        100,  # UnsatisfiableWriteConcern
        112,  # WriteConflict
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        175,  # QueryPlanKilled
        189,  # PrimarySteppedDown
        237,  # CursorKilled
        262,  # ExceededTimeLimit
        10058,  # LegacyNotPrimary
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11601,  # Interrupted
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)


def _bounded[**P, T](
    seconds: float,
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    def decorate(call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @wraps(call)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            # A cancellation that cuts through an await of the driver can cost it its connections.
            with CancelScope(shield=True), pymongo.timeout(seconds):
                try:
                    return await call(*args, **kwargs)
                except PyMongoError as error:
                    # Not chained: what the driver raises holds the documents it is about.
                    raise _ours(error) from None

        return run

    return decorate


#: For a method that asks the database: in this time it has answered all, or is not available.
command = _bounded(SECONDS)
long_command = _bounded(LONG_SECONDS)


def is_unavailable(error: PyMongoError) -> bool:
    """Say whether the database did not answer, or not with the majority; not what it refused."""
    if isinstance(error, BulkWriteError):
        errors = (error.details or {}).get("writeErrors", [])
        return all(each.get("code") in _UNAVAILABLE for each in errors)
    if isinstance(error, OperationFailure):
        return isinstance(error, WriteConcernError) or error.code in _UNAVAILABLE
    return isinstance(error, ConnectionFailure) or error.timeout


async def repeated[T](write: Callable[[], Awaitable[T]]) -> T:
    """Write again where the connection broke, as the driver does not for many documents at once."""
    for _ in range(TRIES - 1):
        try:
            return await write()
        except AutoReconnect:
            continue
    return await write()


def write_errors(error: BulkWriteError) -> tuple[int, ...]:
    """Give the codes of what was refused, without what it was."""
    return tuple(each.get("code", 0) for each in (error.details or {}).get("writeErrors", ()))


def _ours(error: PyMongoError) -> Exception:
    name = type(error).__name__
    if isinstance(error, BulkWriteError):
        codes = sorted(set(write_errors(error)))
        text = f"{name}, codes {codes}" if codes else f"{name}, without a majority"
    elif isinstance(error, OperationFailure):
        text = f"{name}, code {error.code}"
    else:
        # About connections only; the driver's view of the topology is left out.
        text = f"{name}: {str(error).partition(' (configured timeouts')[0]}"
    return StoreUnavailableError(text) if is_unavailable(error) else StoreRefusedError(text)
