"""Writing an archive: the board's stream from its beginning to where it ended when this began."""

import hashlib
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio.to_thread
import msgspec

from blackboard.archive.format import (
    BLOBS,
    LINES,
    MANIFEST,
    PIECE_BYTES,
    Manifest,
    Piece,
    line_of,
    read_manifest,
    write_file,
    write_manifest,
)
from blackboard.blobs import load_blob
from blackboard.clock import now
from blackboard.envelope import is_expired
from blackboard.errors import GoneError, InvalidError, NotFoundError, SettingsError
from blackboard.jetstream import Message, Start, follow
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.receipts import Copy
from blackboard.search import Filter
from blackboard.subjects import FORGET, ONCE, Pattern, Ref, claim_subject


class Exported(msgspec.Struct, frozen=True):
    """What an export wrote.

    Attributes:
        lines: Revisions and tombstones.
        blobs: Large content.
        resumed: Lines that an earlier, interrupted export had written.
        last: The revision up to which the board was read.
    """

    lines: int
    blobs: int
    resumed: int
    last: int


async def export(
    log: Log, directory: Path, *, pattern: str = ">", where: Filter | None = None, place: str = ""
) -> Exported:
    """Write an archive, or go on with one that was interrupted.

    Args:
        log: The board.
        directory: New, empty, or that of the interrupted export of the same.
        pattern: Of the topics; results of `once` that what is exported shows come along.
        where: What else is selected; None for all.
        place: Where the archive lies, for those who have to know of copies.

    Raises:
        SettingsError: The directory cannot be used, or the disk is full; what is complete stays.
        NotFoundError: There is no such board.
        UnavailableError: The broker does not answer.
    """
    info = await log.connection.stream(log.stream)
    if info is None:
        raise NotFoundError(f"there is no board {log.board!r}")
    Pattern.parse(pattern)
    begun = Manifest(
        board=log.board,
        created=info.created,
        at=now(),
        pattern=pattern,
        where=where,
        last=info.state.last_seq,
    )
    try:
        manifest = await anyio.to_thread.run_sync(_opened, directory, begun)
        resumed = manifest.lines
        await _noted(log, manifest, place)
        writing = _Writing(log, directory, manifest)
        await writing.run()
    except OSError as error:
        raise SettingsError(
            f"cannot write to {str(directory)!r} ({error.strerror}); make room or name another "
            "directory, and run the same export again: it goes on where it was"
        ) from error
    done = writing.manifest
    return Exported(done.lines, len(done.blobs), resumed, done.last)


def _opened(directory: Path, begun: Manifest) -> Manifest:
    """The manifest to go on with."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (directory / MANIFEST).exists():
        if any(directory.iterdir()):
            raise SettingsError(f"{str(directory)!r} holds something else; name a new directory")
        (directory / BLOBS).mkdir(mode=0o700)
        write_manifest(directory, begun)
        return begun
    there = read_manifest(directory)
    same = (there.board, there.created, there.pattern, there.where)
    if same != (begun.board, begun.created, begun.pattern, begun.where):
        raise SettingsError(
            f"{str(directory)!r} holds the export of something else; name a new directory"
        )
    if there.complete:
        raise SettingsError(f"{str(directory)!r} holds a complete export; name a new directory")
    return there


async def _noted(log: Log, manifest: Manifest, place: str) -> None:
    """Leave word of the copy on the board, for receipts of what is forgotten later."""
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{place} {manifest.at.isoformat()}").hex
    subject = claim_subject(log.board, FORGET, log.agent, f"x-{name}")
    there, sequence = await log.record_at(subject, Copy)
    if there is None:
        copy = Copy(what=f"an export to {place}", at=manifest.at, last=manifest.last)
        await log.send([log.record(subject, copy, expected=sequence, ttl_s=None)])


class _Writing:
    """One run of an export."""

    def __init__(self, log: Log, directory: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._log = log
        self._directory = directory
        self._lines: list[bytes] = []
        self._bytes = 0
        self._blobs = set(manifest.blobs)
        self._shown: set[Ref] = set()
        self._whole = manifest.pattern == ">" and manifest.where is None

    async def run(self) -> None:
        """Write what is missing."""
        await self._pass(self._selects, self.manifest.position, closing=True)
        if not self._whole:
            # An interrupted export has to learn again what it showed.
            await self._learn_shown()
            await self._pass(self._is_shown, 0, closing=False)
        await self._close_piece(self.manifest.last, complete=True)

    async def _pass(
        self, selects: Callable[[Memory], bool], position: int, *, closing: bool
    ) -> None:
        async for message in self._messages(position):
            memory = self._log.delivered(message)
            if memory is None or is_expired(memory) or not selects(memory):
                continue
            blob = await self._blob(memory)
            if blob is None and memory.blob is not None:
                continue  # its content was erased meanwhile, and a tombstone is on its way
            line = line_of(memory, message.data, blob)
            self._lines.append(line)
            self._bytes += len(line) + 1
            if closing and (len(self._lines) >= LINES or self._bytes >= PIECE_BYTES):
                await self._close_piece(message.sequence)

    async def _messages(self, position: int) -> AsyncGenerator[Message]:
        start = Start.after(position) if position else Start.all()
        subject = f"mem.{self._log.board}.>"
        async with AsyncExitStack() as stack:
            follower = await stack.enter_async_context(
                follow(self._log.connection, self._log.stream, subject, start)
            )
            while follower.pending:
                message = await follower.step()
                if message is None:
                    continue
                if message.sequence > self.manifest.last:
                    return
                yield message

    def _selects(self, memory: Memory) -> bool:
        where = self.manifest.where
        if not Pattern(self.manifest.pattern).matches(memory.topic):
            return False
        # Whose a tombstone was it does not say; without it a copy would bring the memory back.
        if where is not None and memory.gone is None and not where.selects(memory):
            return False
        if memory.content_of is not None:
            self._shown.add(memory.content_of.unpinned)
        return True

    async def _learn_shown(self) -> None:
        if self.manifest.position:
            async for message in self._messages(0):
                memory = self._log.delivered(message)
                if memory is not None:
                    self._selects(memory)

    def _is_shown(self, memory: Memory) -> bool:
        mine = Pattern(self.manifest.pattern).matches(memory.topic) and self.manifest.where is None
        return memory.topic.split(".")[0] == ONCE and not mine and memory.ref in self._shown

    async def _blob(self, memory: Memory) -> str | None:
        """Write large content beside the lines; gives its digest."""
        if memory.blob is None or memory.gone is not None:
            return None
        try:
            body = await load_blob(self._log, memory.access, memory.blob, str(memory.ref))
        except (GoneError, InvalidError):
            return None
        name = hashlib.sha256(body).hexdigest()
        if name not in self._blobs:
            await anyio.to_thread.run_sync(write_file, self._directory / BLOBS / name, body)
            self._blobs.add(name)
        return name

    async def _close_piece(self, position: int, *, complete: bool = False) -> None:
        pieces = self.manifest.pieces
        if self._lines:
            body = b"\n".join(self._lines) + b"\n"
            name = f"memories-{len(pieces):06}.ndjson"
            await anyio.to_thread.run_sync(write_file, self._directory / name, body)
            piece = Piece(name, len(self._lines), hashlib.sha256(body).hexdigest())
            pieces = (*pieces, piece)
            self._lines, self._bytes = [], 0
        self.manifest = msgspec.structs.replace(
            self.manifest,
            position=position,
            pieces=pieces,
            blobs=tuple(sorted(self._blobs)),
            complete=complete,
        )
        await anyio.to_thread.run_sync(write_manifest, self._directory, self.manifest)
