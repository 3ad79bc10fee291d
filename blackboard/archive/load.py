"""Reading an archive into a board: all of it is checked before anything of it is stored.

A copy keeps its reference and says where it comes from (`Bb-Origin`), so pins stay valid and a
second import finds what the first has stored. It is put behind what is there and never over it: a
memory that the board has of its own stays as it is, and what the board forgot stays forgotten.
"""

import hashlib
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import anyio.to_thread
import msgspec

from blackboard.archive.format import (
    BLOBS,
    Line,
    Manifest,
    lines_of,
    read_manifest,
    sha256,
)
from blackboard.blobs import store_blob
from blackboard.clock import now
from blackboard.codec import decode_record
from blackboard.envelope import Write
from blackboard.errors import DeniedError, InvalidError, NotFoundError, TooLargeError
from blackboard.jetstream import Message, Start, follow
from blackboard.log import Log
from blackboard.messages import Blob, Memory, memory_of
from blackboard.receipts import Part
from blackboard.subjects import FORGET, Address, Ref

BATCH = 1_000
BATCH_BYTES = 16 * 1024 * 1024
MAX_BLOB_BYTES = 256 * 1024 * 1024


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did with the lines of an archive.

    Attributes:
        stored: New on the board.
        there: Stored by an earlier import.
        kept: Of memories that the board has of its own, which stay as they are.
        forgotten: Of what this board forgot.
        expired: Their time is over.
    """

    stored: int = 0
    there: int = 0
    kept: int = 0
    forgotten: int = 0
    expired: int = 0


class _Head(msgspec.Struct):
    """What the board has of a memory.

    Attributes:
        subjects: The last sequence of each of its subjects.
        origin: Of the newest copy: board and revision; None for what the board has of its own.
        gone: Of the newest message.
    """

    subjects: dict[str, int] = {}
    tip: int = 0
    origin: tuple[str, int] | None = None
    gone: str | None = None


async def load(log: Log, directory: Path) -> Loaded:
    """Import an archive; what an earlier import of it stored is left as it is.

    Raises:
        SettingsError: The archive cannot be read.
        InvalidError: It is incomplete, damaged or hostile; nothing was changed.
        DeniedError: This takes an operator's credential.
        NotFoundError: There is no such board.
        BoardFullError: No room; import it again when there is some.
        UnavailableError: The broker does not answer; import it again.
    """
    identity = log.connection.identity
    if identity is not None and identity.restricted:
        raise DeniedError(
            "an import writes under other agents' names: use an operator's credential"
        )
    manifest = await anyio.to_thread.run_sync(_checked, directory)
    info = await log.connection.stream(log.stream)
    if info is None:
        raise NotFoundError(f"there is no board {log.board!r}")
    own = (manifest.board, manifest.created) == (log.board, info.created)
    loading = _Loading(log, directory, manifest, own=own)
    await loading.look()
    for piece in manifest.pieces:
        lines = await anyio.to_thread.run_sync(lambda one=piece: list(lines_of(directory, one)))
        await loading.take(lines)
    await loading.flush()
    return Loaded(**loading.counts)


def _checked(directory: Path) -> Manifest:
    """Check every byte of an archive.

    Raises:
        InvalidError: Something is missing, changed, or could not have been on a board.
    """
    manifest = read_manifest(directory)
    if not manifest.complete:
        raise InvalidError(
            f"{str(directory)!r} is not complete; run the export again, which goes on where it was"
        )
    named: set[str] = set()
    for piece in manifest.pieces:
        for line in lines_of(directory, piece):
            try:
                line.check()
            except InvalidError as error:
                raise InvalidError(f"{piece.name}, revision {line.revision}: {error}") from error
            if line.blob is not None:
                named.add(line.blob)
    if named - set(manifest.blobs):
        raise InvalidError(
            f"large content {min(named - set(manifest.blobs))} is not in the archive"
        )
    for blob in manifest.blobs:
        path = directory / BLOBS / blob
        if sha256(path) != blob:
            raise InvalidError(f"large content {blob} was damaged")
        if path.stat().st_size > MAX_BLOB_BYTES:
            raise TooLargeError(f"large content {blob} is above {MAX_BLOB_BYTES} bytes")
    return manifest


class _Loading:
    """One run of an import."""

    def __init__(self, log: Log, directory: Path, manifest: Manifest, *, own: bool) -> None:
        self.counts = {"stored": 0, "there": 0, "kept": 0, "forgotten": 0, "expired": 0}
        self._log = log
        self._directory = directory
        self._board = manifest.board
        self._own = own
        self._heads: dict[Ref, _Head] = {}
        self._removed: set[int] = set()
        self._batch: list[tuple[Write, _Head]] = []
        self._in_batch: set[Ref] = set()
        self._bytes = 0

    async def look(self) -> None:
        """Learn what the board has, and what it forgot."""
        subject = f"mem.{self._log.board}.>"
        async for message in self._newest(subject):
            try:
                address = Address.parse(message.subject)
            except InvalidError:
                continue
            head = self._heads.setdefault(address.ref, _Head())
            head.subjects[message.subject] = message.sequence
            if message.sequence > head.tip:
                head.tip = message.sequence
                head.origin = _origin(message.headers.get("Bb-Origin"))
                head.gone = message.headers.get("Bb-Gone")
        if self._own:
            await self._learn_removed()

    async def _learn_removed(self) -> None:
        """What receipts say was removed from this very board, long after its tombstones."""
        async for message in self._newest(f"claim.{self._log.board}.{FORGET}.>"):
            name = message.subject.split(".")[-1]
            if not (name.startswith("e-") and name.count("-") == 2):
                continue
            part = decode_record(message.data, Part)
            if part.store == self._log.stream and part.what == "memories":
                for first, last in part.ranges:
                    self._removed.update(range(first, last + 1))

    async def _newest(self, subject: str) -> AsyncGenerator[Message]:
        headers_only = subject.startswith("mem.")
        async with follow(
            self._log.connection,
            self._log.stream,
            subject,
            Start.newest(),
            headers_only=headers_only,
        ) as follower:
            while follower.pending:
                message = await follower.step()
                if message is not None:
                    yield message

    async def take(self, lines: Iterable[Line]) -> None:
        """Store what of a file is not there yet."""
        for line in lines:
            fate = self._fate(line)
            if fate != "stored":
                self.counts[fate] += 1
                continue
            if line.ref in self._in_batch or self._is_full():
                # The broker checks a batch against the state before it.
                await self.flush()
            await self._add(line)

    def _fate(self, line: Line) -> str:
        """What becomes of a line: stored, or the reason why not."""
        head = self._heads.get(line.ref)
        if self._own and line.revision in self._removed:
            return "forgotten"
        if line.expires is not None and line.expires <= now():
            return "expired"
        if head is None or not head.tip:
            return "stored"
        return self._against(head, line)

    def _against(self, head: _Head, line: Line) -> str:
        """What becomes of a revision of a memory that the board has something of."""
        if head.gone == "forgotten" and head.origin is None:
            return "forgotten"
        origin = _origin(line.origin_of(self._board))
        if head.origin is None or origin is None or head.origin[0] != origin[0]:
            return "kept"
        return "stored" if origin[1] > head.origin[1] else "there"

    def _is_full(self) -> bool:
        return len(self._batch) >= BATCH or self._bytes >= BATCH_BYTES

    async def _add(self, line: Line) -> None:
        head = self._heads.setdefault(line.ref, _Head())
        subject = str(
            Address(self._log.board, line.access, line.agent, line.ref.topic, line.ref.id)
        )
        memory: Memory | None = None
        if line.gone is None:
            blob = None if line.blob is None else await self._blob(line)
            memory = memory_of(line.body(), blob=blob)
        write = Write(
            ref=line.ref,
            access=line.access,
            agent=line.agent,
            expected=head.tip if line.ref.shared else head.subjects.get(subject, 0),
            memory=memory,
            gone=line.gone,
            reason=line.reason,
            expires=line.expires if line.gone is None else None,
            cause=line.cause,
            origin=line.origin_of(self._board),
            by=self._log.agent,
        )
        self._batch.append((write, head))
        self._in_batch.add(line.ref)
        self._bytes += 1024 + len(line.payload)

    async def _blob(self, line: Line) -> Blob:
        path = self._directory / BLOBS / (line.blob or "")
        body = await anyio.to_thread.run_sync(path.read_bytes)
        if hashlib.sha256(body).hexdigest() != line.blob:
            raise InvalidError(f"large content {line.blob} was changed while it was imported")
        return await store_blob(self._log, line.access, body)

    async def flush(self) -> None:
        """Store the batch."""
        if not self._batch:
            return
        revisions = await self._log.append_many([write for write, _ in self._batch])
        for (write, head), revision in zip(self._batch, revisions, strict=True):
            board, ref = self._log.board, write.ref
            subject = str(Address(board, write.access, write.agent, ref.topic, ref.id))
            head.subjects[subject] = head.tip = revision
            head.origin = _origin(write.origin)
            head.gone = write.gone
        self.counts["stored"] += len(self._batch)
        self._batch, self._bytes = [], 0
        self._in_batch.clear()


def _origin(text: str | None) -> tuple[str, int] | None:
    board, _, rest = (text or "").partition("/")
    revision = rest.partition("/")[0]
    return (board, int(revision)) if revision.isdecimal() else None
