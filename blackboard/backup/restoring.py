"""Making a board from a backup, at a broker that does not have it.

The board's own stream comes first and says of itself that it is being restored: it takes nothing,
serves no reads, and whoever opens it is told. Only when every other stream is there is it opened,
by one change of its settings. So a restore that is ended at any moment leaves no half board, and
the next one begins again.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from blackboard.backup.format import MAX_SEQUENCE, OWN, Backup, Filed
from blackboard.backup.purge import purge
from blackboard.backup.vault import Vault
from blackboard.backup.words import Word, Words, words_in
from blackboard.clock import now
from blackboard.errors import DeniedError, InvalidError, SettingsError
from blackboard.jetstream import BrokerError, Connection, Stream
from blackboard.jetstream.errors import RESTORE_FAILED
from blackboard.jetstream.snapshot import check_version, restore as restore_stream
from blackboard.jetstream.stream import LIVES
from blackboard.layout import ANNOUNCED, RESTORING, is_restoring, limits_in, streams_of
from blackboard.ledger.streams import ledger_streams
from blackboard.settings import Limits
from blackboard.subjects import FORGET, memory_stream

logger = logging.getLogger(__name__)

TRIES = 5
"""At one stream."""
PAUSE_S = 0.1


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore made.

    Attributes:
        board: Its name.
        number: Of the backup.
        last: The revision that it reached to.
        messages: In all streams.
        streams: How many.
        forgotten: Orders to forget that were carried out before anything was restored.
    """

    board: str
    number: int
    last: int
    messages: int
    streams: int
    forgotten: int


async def restore(
    connection: Connection,
    vault: Vault,
    number: int | None = None,
    *,
    words: Words | None = None,
    replicas: int | None = None,
) -> Restored:
    """Make a board as it was, without what was forgotten since.

    What later backups in the vault, and `words`, say was forgotten is first forgotten in the backup
    itself. An interrupted restore is no board yet: do it again.

    Args:
        connection: To a broker that does not have the board, or nothing on it.
        vault: Where the backup lies.
        number: Of the backup; None means the newest.
        words: What is known of orders to forget from elsewhere.
        replicas: Servers that shall hold it; None means as many as held it.

    Raises:
        InvalidError: The backup is damaged, or `words` are of another board; nothing was restored.
        SettingsError: The board is there, the broker is too old, or the files cannot be used.
        DeniedError: This takes an operator's credential.
        NotFoundError: There is no such backup.
        BoardFullError: The broker has no room.
        UnavailableError: The broker does not answer.
    """
    identity = connection.identity
    if identity is not None and identity.restricted:
        raise DeniedError("a restore makes a whole board: use an operator's credential")
    check_version(connection)
    with vault.held():
        backup, forgotten = await anyio.to_thread.run_sync(_prepared, vault, number, words)
        await _clear(connection, backup.board)
        await _Restoring(connection, vault, backup, replicas).run()
    logger.info("board.restored", extra={"board": backup.board, "backup": backup.number})
    return Restored(
        board=backup.board,
        number=backup.number,
        last=backup.last,
        messages=sum(stream.messages for stream in backup.streams),
        streams=len(backup.streams),
        forgotten=forgotten,
    )


def _prepared(vault: Vault, number: int | None, words: Words | None) -> tuple[Backup, int]:
    """A backup that is whole, and holds nothing that is known to be forgotten."""
    backup = vault.backup(number)
    _check(vault, backup)
    known = words_of(vault)
    if not backup.is_of(known.lives):
        known = Words(backup.board, (*backup.lives, backup.created))
    if words is not None:
        known.learn(words)
    orders = [order for order in known.done if order not in backup.forgotten]
    own = words_in(backup.board, backup.lives, vault.all_records(backup.memory)).found
    wishes = [one.wish for one in known.found.values() if one.wish and _is_missing(one, own)]
    if orders or wishes:
        backup = purge(vault, backup, known, orders, now(), wishes)
        _check(vault, backup)
        vault.keep(backup)
        vault.sweep()
    later = [other.stream(backup.memory.name).last for other in vault.backups()]
    return _behind(backup, max(later)), len(orders)


def words_of(vault: Vault) -> Words:
    """What the newest backup of a vault says was forgotten.

    Raises:
        InvalidError: It is damaged.
    """
    newest = vault.backup()
    lives = (*newest.lives, newest.created)
    return words_in(newest.board, lives, vault.all_records(newest.memory))


def _is_missing(word: Word, own: dict[str, Word]) -> bool:
    return word.pending and word.order not in own


def _check(vault: Vault, backup: Backup) -> None:
    wrong = vault.check(backup)
    if wrong:
        more = f" (and {len(wrong) - 1} more: `blackboard backup verify`)" if wrong[1:] else ""
        raise InvalidError(
            f"backup {backup.number} is damaged, nothing was restored: {wrong[0]}{more}"
        )


def _behind(backup: Backup, last: int) -> Backup:
    """Have the board go on behind every revision that is known to have been there."""
    streams = [
        msgspec.structs.replace(stream, last=max(stream.last, last))
        if stream.name == memory_stream(backup.board)
        else stream
        for stream in backup.streams
    ]
    return msgspec.structs.replace(backup, streams=tuple(streams))


async def _clear(connection: Connection, board: str) -> None:
    """Take away what an interrupted restore left, or a board on which nothing ever was.

    Raises:
        SettingsError: There is more.
    """
    name = memory_stream(board)
    info = await connection.stream(name, subjects=f"mem.{board}.>")
    names = [stream.name for stream in _streams(board, Limits(), "").values()]
    if info is None:
        for other in names:
            found = await connection.stream(other)
            if found is not None and found.state.messages:
                raise SettingsError(
                    f"stream {other} of board {board!r} is on this broker, without the board; "
                    "nothing was restored: delete it if nobody needs it, or name another broker"
                )
    elif not is_restoring(info):
        asked = await connection.stream(name, subjects=f"claim.{board}.{FORGET}.>")
        orders = {} if asked is None else asked.state.subjects
        letters = {subject.split(".")[4].partition("-")[0] for subject in orders}
        if info.state.subjects or letters & {"e", "f"}:
            raise SettingsError(
                f"board {board!r} is on this broker, with {len(info.state.subjects)} memories; "
                "nothing was restored: name a broker without it (`blackboard import` brings "
                "memories into a board that is there)"
            )
    for other in [one for one in names if one != name] + [name]:
        await connection.delete_stream(other)


def _streams(board: str, limits: Limits, prefix: str) -> dict[str, Stream]:
    found = (*streams_of(board, limits, prefix), *ledger_streams(board, limits))
    return {stream.name: stream for stream in found}


class _Restoring:
    """One run."""

    def __init__(
        self, connection: Connection, vault: Vault, backup: Backup, replicas: int | None
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._backup = backup
        configs = {stream.name: stream.config for stream in backup.streams}
        limits = limits_in(backup.board, configs)
        if replicas is not None:
            limits = msgspec.structs.replace(limits, replicas=replicas)
        self._wanted = _streams(backup.board, limits, connection.prefix)

    async def run(self) -> None:
        """Restore the streams, the board first, and open it last."""
        memory = self._backup.memory
        config = self._config(memory)
        shut = {
            **config,
            "subjects": [f"restoring.{self._backup.board}"],
            "allow_direct": False,
            "metadata": {**config["metadata"], RESTORING: str(self._backup.number)},
        }
        shut.pop("subject_transform", None)
        await self._restore(memory, shut)
        for stream in self._backup.streams:
            if stream.name != memory.name:
                await self._replace(stream)
        there = {stream.name for stream in self._backup.streams}
        board, prefix = self._backup.board, self._connection.prefix
        for name in {one.name for one in streams_of(board, Limits(), prefix)} - there:
            await self._connection.create_stream(self._wanted[name])
        await self._connection.api(f"STREAM.UPDATE.{memory.name}", config)

    async def _replace(self, stream: Filed) -> None:
        """Restore a stream; one that somebody made in the meantime has nothing that counts.

        Agents that are still about from before make the streams that they miss.
        """
        config = self._config(stream)
        for _ in range(TRIES):
            await self._connection.delete_stream(stream.name)
            if await self._connection.stream(stream.name) is None:
                break
        await self._restore(stream, config)

    async def _restore(self, stream: Filed, config: dict[str, Any]) -> None:
        def pieces() -> Iterator[bytes]:
            for block in stream.blocks:
                yield self._vault.body(block)

        if stream.last >= MAX_SEQUENCE:
            raise InvalidError(f"{stream.name} goes on behind {stream.last}, which is none of ours")
        span = (stream.first, stream.last)
        for left in reversed(range(TRIES)):
            try:
                await restore_stream(
                    self._connection, config, stream.consumers, span, pieces(), time.time_ns()
                )
            except BrokerError as error:
                # While it still clears away what was deleted before, it may fail to make a
                # directory (tried: after a board's last stream was deleted).
                if error.code != RESTORE_FAILED or not left:
                    raise
                logger.info("board.again", extra={"stream": stream.name, "error": str(error)})
                await self._connection.delete_stream(stream.name)
                await anyio.sleep(PAUSE_S)
            else:
                return

    def _config(self, stream: Filed) -> dict[str, Any]:
        """What a stream is made with: as boards are laid out, with what we noted on it."""
        noted: dict[str, str] = stream.config.get("metadata") or {}
        before = noted.get(LIVES)
        lives = stream.created if before is None else f"{before},{stream.created}"
        kept = {name: text for name, text in noted.items() if name.startswith(OWN)}
        kept.pop(RESTORING, None)
        replicas = self._wanted[stream.name].replicas
        if replicas == 1:
            kept.pop(ANNOUNCED, None)
        return {**self._wanted[stream.name].config(), "metadata": {**kept, LIVES: lives}}
