"""Bytes moved, by the broker's own count for each connection."""

from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import anyio
import msgspec

from blackboard.errors import UnavailableError

LIMIT_S = 5.0
PAGE = 1024


class Connection(msgspec.Struct, frozen=True):
    """What the broker's `/connz` says of a connection, open or closed."""

    cid: int
    name: str = ""
    in_bytes: int = 0
    out_bytes: int = 0


class _Page(msgspec.Struct, frozen=True):
    total: int
    connections: Sequence[Connection] = ()


async def connections(monitor: str) -> list[Connection]:
    """Ask the broker for all its connections, those that are closed included.

    Args:
        monitor: Address of its monitoring pages.

    Raises:
        UnavailableError: It does not answer.
    """
    return await anyio.to_thread.run_sync(_read_all, monitor)


def moved(found: Sequence[Connection], *, after: int, without: str) -> int:
    """Bytes received and sent over connections made after one, but not by an agent of that name."""
    return sum(
        connection.in_bytes + connection.out_bytes
        for connection in found
        if connection.cid > after and not connection.name.startswith(f"{without}@")
    )


def newest(found: Sequence[Connection]) -> int:
    """The number of the newest connection; 0 when there is none."""
    return max((connection.cid for connection in found), default=0)


def _read_all(monitor: str) -> list[Connection]:
    found: list[Connection] = []
    while True:
        page = _read_page(monitor, len(found))
        found += page.connections
        if not page.connections or len(found) >= page.total:
            return found


def _read_page(monitor: str, offset: int) -> _Page:
    # Not urllib: it would ask a proxy for an address of this machine.
    http = HTTPConnection(urlsplit(monitor).netloc, timeout=LIMIT_S)
    try:
        http.request("GET", f"/connz?state=any&sort=cid&limit={PAGE}&offset={offset}")
        return msgspec.json.decode(http.getresponse().read(), type=_Page)
    except (OSError, HTTPException, msgspec.MsgspecError) as error:
        raise UnavailableError(f"the broker does not tell its byte counts: {error}") from error
    finally:
        http.close()
