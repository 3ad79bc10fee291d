"""Taking a backup of a board that is in use, of which only what changed is written.

Every message is read, which also proves that the broker can still read it, and packed into blocks
as the backup before cut them. A message never changes, so a block in which nothing was deleted
comes out as it was and is there already. What was forgotten since is then forgotten in the earlier
backups of the directory as well.
"""

import logging
import uuid
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread
import msgspec

from blackboard.backup.format import MAX_SEQUENCE, Backup, Block, Filed, kept_streams
from blackboard.backup.purge import purge
from blackboard.backup.vault import LAST_NUMBER, Heard, Vault
from blackboard.backup.words import Words, words_at
from blackboard.clock import now
from blackboard.errors import DeniedError, NotFoundError, SettingsError
from blackboard.jetstream import Connection, StreamInfo
from blackboard.jetstream.packed import Record
from blackboard.jetstream.snapshot import consumed, records
from blackboard.log import Log
from blackboard.receipts import Copy
from blackboard.subjects import FORGET, claim_subject, memory_stream

logger = logging.getLogger(__name__)

BLOCK_BYTES = 4 * 1024 * 1024
"""Of the messages in a block: what one deletion makes to be written again."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup wrote.

    Attributes:
        number: Of the backup in its directory.
        last: The revision of the board that it reaches to.
        messages: In all streams.
        bytes: Of its files, those that it shares with earlier ones included.
        written: Of them, what this one wrote.
        forgotten: Orders to forget that were carried out in earlier backups now.
    """

    number: int
    last: int
    messages: int
    bytes: int
    written: int
    forgotten: int


async def take(log: Log, directory: Path, *, place: str = "", keep: int | None = None) -> Taken:
    """Back a board up into a directory, beside earlier backups of it.

    Others go on writing meanwhile; what they write after this began is not in it. An interrupted
    one leaves the earlier backups as they are: do it again.

    Args:
        log: The board.
        directory: New, or that of earlier backups of this board.
        place: Where that lies, for those who have to know of copies.
        keep: How many backups stay, this one included; None keeps all.

    Raises:
        SettingsError: The directory cannot be used, or the disk is full.
        DeniedError: This takes an operator's credential.
        NotFoundError: There is no such board.
        InvalidError: An earlier backup is damaged; this one is there all the same.
        UnavailableError: The broker does not answer.
    """
    _check_rights(log.connection)
    vault = Vault(directory)
    info = await _board(log)
    with vault.held(create=True):
        before = _before(vault, info, log.board)
        taking = _Taking(log, vault, before)
        backup = await taking.run(info, place)
        await anyio.to_thread.run_sync(vault.keep, backup)
        forgotten = await anyio.to_thread.run_sync(forget_in, vault, taking.words)
        vault.hear(Heard(backup.at, log.connection.url))
        for number in vault.numbers()[: -keep if keep else 0]:
            vault.drop(number)
        await anyio.to_thread.run_sync(vault.sweep)
    return Taken(
        number=backup.number,
        last=backup.last,
        messages=sum(stream.messages for stream in backup.streams),
        bytes=backup.size,
        written=taking.written,
        forgotten=forgotten,
    )


async def hear(connection: Connection, board: str, directory: Path) -> int:
    """Ask a board what was forgotten, and forget it in all backups of a directory as well.

    Returns:
        How many orders were carried out.

    Raises:
        SettingsError: The directory cannot be used.
        NotFoundError: There is no such board, or no backup.
        InvalidError: The backups are of another board, or damaged.
        UnavailableError: The broker does not answer.
    """
    _check_rights(connection)
    vault = Vault(directory)
    with vault.held():
        newest = vault.backup()
        at = now()
        words = Words(newest.board, (*newest.lives, newest.created))
        words.learn(await words_at(connection, board))
        forgotten = await anyio.to_thread.run_sync(forget_in, vault, words)
        vault.hear(Heard(at, connection.url))
        await anyio.to_thread.run_sync(vault.sweep)
    return forgotten


def forget_in(vault: Vault, words: Words) -> int:
    """Carry out in every backup what is not yet; gives how many orders there were.

    Raises:
        InvalidError: A backup is damaged.
    """
    carried: set[str] = set()
    for backup in vault.backups():
        orders = [order for order in words.done if order not in backup.forgotten]
        if orders and backup.is_of(words.lives):
            vault.keep(purge(vault, backup, words, orders, now()))
            carried.update(orders)
    return len(carried)


def _check_rights(connection: Connection) -> None:
    identity = connection.identity
    if identity is not None and identity.restricted:
        raise DeniedError("a backup holds all of a board: use an operator's credential")


async def _board(log: Log) -> StreamInfo:
    info = await log.connection.stream(log.stream)
    if info is None:
        raise NotFoundError(f"there is no board {log.board!r}")
    return info


def _before(vault: Vault, info: StreamInfo, board: str) -> Backup | None:
    """The newest backup in a directory, if it is of this board."""
    if not vault.numbers():
        return None
    before = vault.backup()
    if before.board != board or not before.is_of((*info.lives, info.created)):
        raise SettingsError(
            f"{str(vault.directory)!r} holds backups of another board {before.board!r}; "
            "name a new directory"
        )
    if before.number >= LAST_NUMBER:
        raise SettingsError(f"{str(vault.directory)!r} is full; name a new directory")
    return before


class _Taking:
    """One run.

    Attributes:
        written: Bytes of new blocks.
        words: What the board says was forgotten.
    """

    def __init__(self, log: Log, vault: Vault, before: Backup | None) -> None:
        self.written = 0
        self.words = Words(log.board, ())
        self._log = log
        self._vault = vault
        self._before = before

    async def run(self, info: StreamInfo, place: str) -> Backup:
        """Read and write everything; gives the manifest."""
        lives = (*info.lives, info.created)
        self.words = Words(self._log.board, lives)
        begun, last = now(), 0
        streams: list[Filed] = []
        for name in kept_streams(self._log.board):
            found = await self._log.connection.stream(name)
            if found is None:
                continue
            consumers = await consumed(self._log.connection, name)
            if name == memory_stream(self._log.board):
                # The word itself ends what is read: no batch reaches from before it to after it.
                last = reach = await self._note(place)
                found = await _board(self._log)
            else:
                found = await self._log.connection.stream(name) or found
                reach = found.state.last_seq
            filed = await self._file(found, reach)
            streams.append(msgspec.structs.replace(filed, consumers=consumers))
        self.words.check()
        return Backup(
            number=1 if self._before is None else self._before.number + 1,
            board=self._log.board,
            created=info.created,
            lives=info.lives,
            at=begun,
            last=last,
            key=self.words.key,
            streams=tuple(streams),
            forgotten=tuple(self.words.done),
        )

    async def _note(self, place: str) -> int:
        """Leave word of the copy on the board, for receipts of what is forgotten later.

        Until it is known how far it reaches, it counts as reaching to the end of all days.
        """
        log, at = self._log, now()
        what = (
            f"the backups in {place} (the next one, or `blackboard backup receipts`, forgets there "
            "as well)"
        )
        name = uuid.uuid5(uuid.NAMESPACE_URL, f"backup {place}").hex
        subject = claim_subject(log.board, FORGET, log.agent, f"x-{name}")
        _, sequence = await log.record_at(subject, Copy)
        copy = Copy(what, at, MAX_SEQUENCE)
        reach = await log.send([log.record(subject, copy, expected=sequence, ttl_s=None)])
        copy = Copy(what, at, reach)
        await log.send([log.record(subject, copy, expected=reach, ttl_s=None)])
        return reach

    async def _file(self, info: StreamInfo, reach: int) -> Filed:
        """Put one stream into blocks."""
        before = self._filed_before(info)
        filed = Filed(
            name=info.name,
            created=info.created,
            config=info.config,
            reach=reach,
            last=reach if before is None else max(reach, before.last),
            messages=info.state.messages,
        )
        same = before is not None and (before.created, before.reach) == (info.created, reach)
        if before is not None and same and not before.altered:
            messages = sum(block.messages for block in before.blocks)
            if messages == info.state.messages:  # nothing new, and nothing deleted
                return msgspec.structs.replace(filed, blocks=before.blocks)
        cutting = _Cutting(self._vault, () if before is None else _ends(before))
        if info.state.messages:
            async for record in records(self._log.connection, info.name, reach):
                self.words.take(record)
                await cutting.add(record)
        await cutting.close()
        self.written += cutting.written
        messages = sum(block.messages for block in cutting.blocks)
        return msgspec.structs.replace(filed, messages=messages, blocks=tuple(cutting.blocks))

    def _filed_before(self, info: StreamInfo) -> Filed | None:
        """The stream in the backup before, or that which it was restored from."""
        streams = () if self._before is None else self._before.streams
        for stream in streams:
            if stream.name == info.name and stream.created in (*info.lives, info.created):
                return stream
        return None


def _ends(before: Filed) -> list[int]:
    """Where the blocks of a stream ended that are full; the last one grows on."""
    blocks = [block for block in before.blocks if block.last <= before.reach]
    if blocks and blocks[-1].bytes < BLOCK_BYTES:
        blocks.pop()
    return [block.last for block in blocks]


class _Cutting:
    """Cuts the messages of a stream into blocks, where it was cut before, then by size."""

    def __init__(self, vault: Vault, ends: Sequence[int]) -> None:
        self.blocks: list[Block] = []
        self.written = 0
        self._vault = vault
        self._ends = list(reversed(ends))
        self._records: list[Record] = []
        self._bytes = 0

    async def add(self, record: Record) -> None:
        size = len(record.subject) + len(record.block) + len(record.data) + 32
        passed = False
        while self._ends and record.sequence > self._ends[-1]:
            self._ends.pop()
            passed = True
        if passed or self._bytes + size > BLOCK_BYTES + 1024 * 1024:
            await self.close()
        self._records.append(record)
        self._bytes += size
        if self._bytes >= BLOCK_BYTES and not self._ends:
            await self.close()

    async def close(self) -> None:
        if not self._records:
            return
        found, self._records, self._bytes = self._records, [], 0
        block, written = await anyio.to_thread.run_sync(self._vault.store, found)
        self.blocks.append(block)
        self.written += written
