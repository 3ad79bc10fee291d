"""The Qdrant server: how it is connected to, which versions will do, and what its errors mean."""

import re
import warnings
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import anyio
import grpc
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)

from blackboard.errors import BlackboardError, SettingsError, UnavailableError
from blackboard.recall.index import BrokenIndexError

OLDEST: Final = (1, 16)
"""The server that first had everything used here (writes that depend on what is there)."""
GRPC_PORT: Final = 6334
TIMEOUT_S: Final = 10
GONE_CODES: Final = {grpc.StatusCode.NOT_FOUND}
REFUSED_CODES: Final = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}

T = TypeVar("T")


def client(
    url: str, key: str | None, grpc_port: int = GRPC_PORT, timeout_s: int = TIMEOUT_S
) -> AsyncQdrantClient:
    """A client, which connects when it is first used; to be closed."""
    with warnings.catch_warnings():
        # The key of a server in the same network may travel in the clear.
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        return AsyncQdrantClient(
            url=url,
            api_key=key,
            prefer_grpc=True,
            grpc_port=grpc_port,
            timeout=timeout_s,
            check_compatibility=False,
        )


async def check_version(client: AsyncQdrantClient, url: str) -> None:
    """Refuse what is no server of a version that will do.

    Raises:
        UnavailableError: Nobody answers, or something else does.
        SettingsError: It is too old.
    """
    try:
        version = (await client.http.service_api.root()).version
    except (ApiException, QdrantException, OSError, ValueError) as error:
        raise UnavailableError(
            f"no Qdrant server answers at {url!r} ({_reason(error)}); check that it runs"
        ) from error
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise SettingsError(
            f"the Qdrant server at {url!r} is version {version!r}; "
            f"{OLDEST[0]}.{OLDEST[1]} or newer is needed"
        )


async def asked(collection: str, answer: Awaitable[T]) -> T:
    """What the server answers, with errors that say what to do.

    Raises:
        BrokenIndexError: It has no such collection.
        SettingsError: It refuses.
        UnavailableError: It does not answer.
    """
    try:
        return await answer
    except (grpc.RpcError, ApiException, QdrantException, OSError) as error:
        raise _problem(error, collection) from error
    except ValueError as error:  # how the client's local mode says it
        if "not found" not in str(error):
            raise
        raise lost(collection) from error


async def remove(url: str, collection: str, *, key: str | None = None) -> None:
    """Remove a collection, whatever it holds; nothing happens when it is not there.

    Raises:
        UnavailableError: The server does not answer; retry later.
        SettingsError: It refuses the key.
    """
    one = client(url, key)
    try:
        await asked(collection, one.delete_collection(collection))
    except BrokenIndexError:
        return
    finally:
        with anyio.CancelScope(shield=True):
            await one.close()


def lost(collection: str) -> BrokenIndexError:
    """The error for a collection that is gone."""
    return BrokenIndexError(
        f"the Qdrant server has no index {collection!r} any more; nothing is lost, the board "
        "holds everything: run `blackboard reindex`"
    )


def _problem(error: Exception, collection: str) -> BlackboardError:
    code: Any = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
    status = error.status_code if isinstance(error, UnexpectedResponse) else None
    if code in GONE_CODES or status == 404:
        return lost(collection)
    if code in REFUSED_CODES or (status is not None and 400 <= status < 500 and status != 429):
        return SettingsError(
            f"the Qdrant server refuses ({_reason(error)}); check its key and its version"
        )
    return UnavailableError(
        f"the Qdrant server does not answer ({_reason(error)}); it is asked again, and nothing "
        "is lost: the board holds everything"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    if isinstance(error, ResponseHandlingException):
        return str(error.source) or type(error.source).__name__
    return " ".join(str(error).split())[:300] or type(error).__name__
