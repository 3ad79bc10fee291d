"""Whether the servers of a replicated board still hold in their logs what was deleted.

Each replica writes what it is told into a log before it stores it, and deleting a message does not
touch the log. A server that snapshots its stream begins the log anew, some minutes after it was
last written; then, and only then, a log is empty and its old file gone. Only the server's own
monitoring tells (`/raftz`), so a receipt waits until each server that holds a copy was seen with an
empty log after the removal. On a board that is never quiet for a moment that may not happen; then
somebody on each machine has to look into the files (`blackboard forget verify --files`).
"""

import logging
import urllib.parse
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from blackboard.jetstream import StreamInfo

logger = logging.getLogger(__name__)

TIMEOUT_S = 3.0
SEE = "name all servers' monitoring to the steward: BLACKBOARD_MONITOR=http://a:8222,http://b:8222"


class _Stream(msgspec.Struct):
    name: str
    stream_raft_group: str = ""


class _Account(msgspec.Struct):
    name: str
    stream_detail: list[_Stream] = []


class _Jsz(msgspec.Struct):
    account_details: list[_Account] = []


class _Varz(msgspec.Struct):
    server_name: str = ""


class _Log(msgspec.Struct):
    messages: int = 0


class _Group(msgspec.Struct):
    committed: int = 0
    applied: int = 0
    wal: _Log = msgspec.field(default_factory=_Log)


class Replicas:
    """What is known of the logs of a board's servers.

    Args:
        monitors: The addresses of all servers' monitoring.
    """

    def __init__(self, monitors: Sequence[str]) -> None:
        self._monitors = monitors
        self._empty: dict[tuple[str, str], datetime] = {}

    async def look(self, now: datetime) -> None:
        """Note which logs are empty now; servers that do not answer are passed over."""

        async def one(address: str) -> None:
            try:
                seen = await anyio.to_thread.run_sync(_empty_logs, address.rstrip("/"))
            except (OSError, ValueError) as error:
                logger.debug("replicas.silent", extra={"address": address, "error": str(error)})
                return
            self._empty.update(dict.fromkeys(seen, now))

        async with anyio.create_task_group() as group:
            for address in self._monitors:
                group.start_soon(one, address)

    def verdict(self, info: StreamInfo, removed: datetime) -> tuple[bool, str]:
        """Whether every server's log of a stream was seen empty since something was removed."""
        names = [info.cluster.leader, *(replica.name for replica in info.cluster.replicas)]
        waiting = [
            name
            for name in names
            if (seen := self._empty.get((name, info.name))) is None or seen <= removed
        ]
        if not waiting:
            return True, f"deleted and overwritten; the logs of {', '.join(names)} began anew since"
        how = f"deleted; still waiting for the logs of {', '.join(waiting)} to begin anew"
        return False, how if self._monitors else f"{how}, which is not seen from here: {SEE}"


def _empty_logs(address: str) -> list[tuple[str, str]]:
    """The streams whose log is empty on a server, with the server's name."""
    name = _page(address, "varz", _Varz).server_name
    found: list[tuple[str, str]] = []
    query = "jsz?streams=true&accounts=true&raft=true&limit=1024"
    for account in _page(address, query, _Jsz).account_details:
        wanted = urllib.parse.quote(account.name)
        groups = _page(address, f"raftz?acc={wanted}", dict[str, dict[str, _Group]])
        logs = groups.get(account.name, {})
        for stream in account.stream_detail:
            log = logs.get(stream.stream_raft_group)
            if log is not None and log.wal.messages == 0 and log.committed == log.applied:
                found.append((name, stream.name))
    return found


def _page(address: str, path: str, kind: Any) -> Any:
    with urllib.request.urlopen(f"{address}/{path}", timeout=TIMEOUT_S) as answer:  # noqa: S310 - an operator names it
        return msgspec.json.decode(answer.read(), type=kind)
