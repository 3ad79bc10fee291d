"""Forgeries, tried: whether this broker can be made to store a message under somebody else's name.

A client's reply subject is checked against nobody's rights, and the broker's own answers go there.
So where a stream listens on a subject that can be a reply, whoever may read one message can have
its copy stored under any name, and whoever may write one can push others' revisions out. Boards
with credentials listen where the broker takes no replies (see `access.identity`); whether that
holds is a matter of the whole configuration, which others may have changed, so it is tried instead
of believed.

The forger is the `probe`, which may write and read under the label `probe` only. It forges in the
name of an agent that does not exist, and what was stored after all is deleted again.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import anyio
from msgspec import Struct

from blackboard.access.identity import (
    ACCESS_STREAM,
    Identity,
    beside,
    read_subject,
    rights_subject,
)
from blackboard.access.rights import PROBE
from blackboard.errors import BlackboardError, SettingsError, UnavailableError
from blackboard.jetstream import Connection, NoStreamError, Outgoing
from blackboard.subjects import (
    SHARED,
    audit_stream,
    audit_subject,
    blob_stream,
    blob_subject,
    claim_subject,
    dead_stream,
    dead_subject,
    memory_stream,
    presence_bucket,
    retry_subject,
    service_subject,
    spans_stream,
    spans_subject,
)

logger = logging.getLogger(__name__)

BAIT_S = 60
"""How long the message lives that is copied; the broker counts whole seconds."""
LATE_S = 0.25
"""After this an answer of the broker's that was to be stored is stored, or is not."""
NO_HEADERS = b'{"no_hdr": true}'
"""Has a direct get leave out the headers by which a copy could be told."""


class Forgery(Struct, frozen=True):
    """One that succeeded.

    Attributes:
        stream: Where it was stored.
        subject: Under whose name.
    """

    stream: str
    subject: str


class Target(Struct, frozen=True):
    """A subject to forge, and the stream that would capture it."""

    stream: str
    subject: str


def probe_of(credentials: Path | None, board: str) -> Identity:
    """The credential to try forgeries with.

    Args:
        credentials: The credential file of a service, or the directory of all: the probe's lies
            beside it, or in it.
        board: The board to try them on.

    Raises:
        SettingsError: It is not there.
    """
    path = beside(credentials, PROBE)
    if path is None or not path.exists():
        raise SettingsError(
            f"no credential {str(path)!r}, so it cannot be tried whether this broker stores "
            "forgeries; `blackboard access apply` makes it, and it belongs beside the steward's"
        )
    return Identity.read(path, board, PROBE)


async def try_forgeries(connection: Connection, probe: Identity, board: str) -> list[Forgery]:
    """Try to forge messages on every stream of a board, and give what was stored.

    Takes about half a second, and leaves nothing behind but a line of the broker's log for each
    attempt that it refused.

    Args:
        connection: Of the steward or an operator, who looks.
        probe: The credential of the forger.
        board: The board.

    Returns:
        Empty where the broker is safe.

    Raises:
        UnavailableError: No answer in time: it was not tried to the end.
        DeniedError: The broker does not let the probe do what it may; it was not tried.
        SettingsError: The broker refuses the probe's credential.
    """
    victim = f"nobody-{uuid4().hex[:12]}"
    targets = list(_targets(board, victim))
    failure: UnavailableError | None = None
    tried = 0
    for address in connection.url.split(","):
        # Each server has a configuration of its own. One that is down forges nothing.
        try:
            async with Connection.open(address, identity=probe, name=f"{PROBE}@{board}") as forger:
                await _try(forger, board, victim, targets)
                tried += 1
        except UnavailableError as error:
            failure = error
    if not tried and failure is not None:
        raise failure
    await anyio.sleep(LATE_S)
    await _clear(connection, memory_stream(board), claim_subject(board, PROBE, PROBE, victim))
    return [Forgery(one.stream, one.subject) for one in targets if await _stored(connection, one)]


async def _try(forger: Connection, board: str, victim: str, targets: list[Target]) -> None:
    bait = Outgoing(
        claim_subject(board, PROBE, PROBE, victim),
        b"a forgery",
        {"Bb-Agent": victim, "Nats-TTL": str(BAIT_S)},
    )
    await forger.publish(bait)
    for number, target in enumerate(targets):
        for subject in (target.subject, forger.prefix + target.subject):
            await forger.notify(subject, b"forged")
            await _have_answered(forger, board, bait.subject, subject)
            if number == 0:
                await _have_api_answer(forger, board, bait.subject, subject)
    # Its own answer comes after those that went elsewhere.
    await _read(forger, board, bait.subject)


def described(forgeries: list[Forgery]) -> str:
    """What was stored, and what to do about it."""
    there = ", ".join(dict.fromkeys(f"{one.stream} ({one.subject})" for one in forgeries))
    return (
        f"this broker stores forged messages in {there}: anybody can write as anybody. Put its "
        "configuration back to what `blackboard access apply` wrote, without mappings of its own"
    )


def _targets(board: str, victim: str) -> Iterator[Target]:
    memories, dead = memory_stream(board), dead_stream(board)
    identifier = uuid4().hex
    cards = presence_bucket(board)
    yield Target(memories, f"mem.{board}.{SHARED}.{victim}.forged.{identifier}")
    yield Target(memories, claim_subject(board, SHARED, victim, f"o-{identifier}"))
    yield Target(blob_stream(board), blob_subject(board, SHARED, victim, identifier, 0))
    yield Target(audit_stream(board), audit_subject(board, victim))
    yield Target(spans_stream(board), spans_subject(board, victim))
    yield Target(dead, dead_subject(board, victim, "forged"))
    yield Target(dead, retry_subject(board, victim, "forged"))
    yield Target(f"KV_{cards}", f"$KV.{cards}.{victim}.{identifier}")
    yield Target(f"READS_{board}", f"rd.{board}.{victim}.{memories}.forged")
    yield Target(ACCESS_STREAM, rights_subject(board, victim))


async def _have_answered(forger: Connection, board: str, bait: str, subject: str) -> None:
    """Have every answer that the probe may ask for sent to a subject."""
    get = read_subject(board, PROBE, memory_stream(board), bait)
    await forger.notify(get, reply=subject)
    await forger.notify(get, NO_HEADERS, reply=subject)
    await forger.notify(forger.prefix + bait, b"a forgery", reply=subject)
    await forger.notify(service_subject(board, "api", PROBE), b"{}", reply=subject)


async def _have_api_answer(forger: Connection, board: str, bait: str, subject: str) -> None:
    """The same with what nobody but a service may ask for; once, for each is logged."""
    stream = memory_stream(board)
    for request in (f"DIRECT.GET.{stream}.{bait}", f"STREAM.INFO.{stream}", "INFO"):
        await forger.notify(f"$JS.API.{request}", reply=subject)
    await forger.notify("$SYS.REQ.USER.INFO", reply=subject)


async def _read(forger: Connection, board: str, bait: str) -> None:
    """Read the bait as an agent does: unless that works, nothing was tried.

    Raises:
        UnavailableError: It is not there.
    """
    try:
        answer = await forger.request(read_subject(board, PROBE, memory_stream(board), bait))
    except NoStreamError as error:
        raise UnavailableError(
            f"reads of board {board!r} reach nobody, so forgeries could not be tried; "
            "put the access policy in force again: blackboard access apply"
        ) from error
    if not answer.data:
        raise UnavailableError(f"board {board!r} lost what forgeries are tried with; try again")


async def _stored(connection: Connection, target: Target) -> bool:
    """Whether it is there; if so it is taken away again."""
    found = False
    for subject in (target.subject, connection.prefix + target.subject):
        found = await _clear(connection, target.stream, subject) or found
    return found


async def _clear(connection: Connection, stream: str, subject: str) -> bool:
    """Delete what lies on a subject; whether there was something."""
    found = False
    try:
        while (message := await connection.leader_last(stream, subject)) is not None:
            found = True
            await connection.delete(stream, message.sequence, erase=False)
    except NoStreamError:
        return False  # a stream that this board does not have
    except UnavailableError:
        raise
    except BlackboardError as error:
        logger.warning("what was tried stays in %s: %s", stream, error)
    return found
