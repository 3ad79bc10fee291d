"""What only a server's monitoring page tells: how it syncs its disk, and how much that holds."""

import urllib.request
from collections.abc import Iterator, Sequence

import anyio
import anyio.to_thread
import msgspec

from blackboard.doctor.check import FULL, Check, gib

TIMEOUT_S = 3.0
SEE = "name the servers' monitoring: --monitor http://HOST:8222"


class _Config(msgspec.Struct):
    sync_interval: int = 0
    sync_always: bool = False
    max_storage: int = 0


class _Stats(msgspec.Struct):
    storage: int = 0
    reserved_storage: int = 0


class _JetStream(msgspec.Struct):
    config: _Config = msgspec.field(default_factory=_Config)
    stats: _Stats = msgspec.field(default_factory=_Stats)


class Server(msgspec.Struct):
    """A server's page `/varz`."""

    server_name: str = ""
    version: str = ""
    jetstream: _JetStream = msgspec.field(default_factory=_JetStream)


async def servers(addresses: Sequence[str]) -> list[Server]:
    """Read the pages of those that answer."""
    found: list[Server | None] = [None] * len(addresses)

    async def look(place: int, address: str) -> None:
        found[place] = await anyio.to_thread.run_sync(_page, f"{address.rstrip('/')}/varz")

    async with anyio.create_task_group() as group:
        for place, address in enumerate(addresses):
            group.start_soon(look, place, address)
    return [one for one in found if one is not None]


def _page(url: str) -> Server | None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - a person names it
            return msgspec.json.decode(answer.read(), type=Server)
    except (OSError, ValueError):
        return None


def checks(
    seen: Sequence[Server], addresses: Sequence[str], *, copies: int, disks: bool
) -> Iterator[Check]:
    """What the pages say.

    Args:
        seen: The pages.
        addresses: Where they were looked for.
        copies: How many servers hold the board; 0 when there is none.
        disks: Whether their limits matter; a local stack has none but the disk itself.
    """
    silent = len(addresses) - len(seen)
    if silent:
        text = f"{silent} of {len(addresses)} monitoring addresses do not answer"
        do = "check the address and the http setting of the servers"
        yield Check("monitoring", "warn", text, do)
    yield _unseen(copies) if not seen else _durability(seen, copies)
    for one in seen if disks else ():
        config, stats = one.jetstream.config, one.jetstream.stats
        text = f"{one.server_name} has promised {gib(stats.reserved_storage)} to streams"
        text += f", of {gib(config.max_storage)}; {gib(stats.storage)} are used"
        if stats.reserved_storage > FULL * config.max_storage:
            do = "raise its max_file_store, or streams cannot be made for more boards"
            yield Check("disk", "warn", text, do)
        else:
            yield Check("disk", "ok", text)
    versions = {one.version for one in seen}
    if len(versions) > 1:
        do = "bring all servers to one version"
        yield Check("versions", "warn", f"the servers run {', '.join(sorted(versions))}", do)


def _durability(seen: Sequence[Server], copies: int) -> Check:
    lazy = [one for one in seen if not one.jetstream.config.sync_always]
    if not lazy:
        return Check("durability", "ok", "every write is on disk before it is acknowledged")
    every = max(one.jetstream.config.sync_interval for one in lazy) / 1e9
    names = ", ".join(one.server_name for one in lazy)
    lost = "a power cut of all of them at once" if copies >= 3 else "a power cut"
    return Check(
        "durability",
        "warn" if copies >= 3 else "fail",
        f"{names}: the disk is synced every {every:.0f} s; {lost} loses what came since",
        "set sync_interval: always in the jetstream block of the configuration",
    )


def _unseen(copies: int) -> Check:
    if copies >= 3:
        text = f"{copies} copies on different servers: what is acknowledged outlives one of them"
        return Check("durability", "ok", text)
    one = "one copy, and " if copies else ""
    return Check(
        "durability",
        "unknown",
        f"{one}how often the broker syncs its disk cannot be seen from here",
        f"set sync_interval: always in its jetstream block (the default is 2 minutes), and {SEE}",
    )
