"""What lies in an archive, and how it is read without trusting it.

Names of files come from here and never from the archive: what it calls its files has to have the
shape that these have, so nothing outside of its directory is opened.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import msgspec

from blackboard.codec import decoder_of, encode_record, read
from blackboard.errors import InvalidError, SettingsError
from blackboard.messages import MAX_PAYLOAD_BYTES, Memory, Payload, decode
from blackboard.records import Cause
from blackboard.removal import MAX_REASON_BYTES
from blackboard.search import Filter
from blackboard.subjects import (
    Ref,
    check_key,
    check_name,
    check_token,
    check_topic,
    is_id,
)

FORMAT = 1
MANIFEST = "manifest.json"
BLOBS = "blobs"
LINES = 20_000
"""Of one file: what an interruption makes to be done again."""
PIECE_BYTES = 64 * 1024 * 1024
MAX_LINE = MAX_PAYLOAD_BYTES + 64 * 1024
MAX_REVISION = 1 << 63
MAX_MANIFEST = 16 * 1024 * 1024
FILE = re.compile(r"memories-[0-9]{6}\.ndjson\Z")
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
ORIGIN = re.compile(r"[A-Za-z0-9_-]{1,64}/[1-9][0-9]{0,18}/\S{10,40}\Z")
GONE = frozenset({"retired", "forgotten", "moved"})


class Piece(msgspec.Struct, frozen=True):
    """A file of lines."""

    name: str
    lines: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an archive says of itself.

    Attributes:
        format: Of the files.
        board: It was made from.
        created: Of the board's stream, which tells it from another of its name.
        at: When the export began.
        pattern: Of the topics.
        where: What else was selected; None for all.
        last: The revision of the board that it reaches to.
        position: Up to where it was written.
        pieces: The files of lines, in order.
        blobs: Large content, by its digest.
        complete: Nothing is missing.
    """

    format: int = FORMAT
    board: str
    created: str
    at: datetime
    pattern: str = ">"
    where: Filter | None = None
    last: int = 0
    position: int = 0
    pieces: tuple[Piece, ...] = ()
    blobs: tuple[str, ...] = ()
    complete: bool = False

    @property
    def lines(self) -> int:
        """Revisions and tombstones in it."""
        return sum(piece.lines for piece in self.pieces)


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One revision, or tombstone, as it lay on the board."""

    ref: Ref
    access: str
    agent: str
    revision: int
    stored: datetime
    expires: datetime | None = None
    gone: str | None = None
    reason: str | None = None
    cause: str | None = None
    origin: str | None = None
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    blob: str | None = None
    """The digest of its large content, which lies beside the lines."""

    def check(self) -> None:
        """Make sure that all of the line is as a board could have it.

        Raises:
            InvalidError: It is not.
        """
        self._check_place()
        for moment in (self.stored, self.expires):
            if moment is not None and moment.tzinfo is None:
                raise InvalidError(f"{self.ref} has a time without zone")
        if self.ref.revision is not None or not 0 < self.revision < MAX_REVISION:
            raise InvalidError(f"{self.ref} has no revision of its own")
        if self.gone is not None and self.gone not in GONE:
            raise InvalidError(f"{self.ref} has an unknown tombstone {self.gone!r}")
        if self.origin is not None and not ORIGIN.match(self.origin):
            raise InvalidError(f"{self.ref} has a malformed origin {self.origin!r}")
        if self.cause is not None:
            Cause.parse(self.cause)  # it becomes a header
        if len(quote(self.reason or "")) > MAX_REASON_BYTES:
            raise InvalidError(f"{self.ref} has a reason above {MAX_REASON_BYTES} bytes")
        if self.blob is not None and not DIGEST.match(self.blob):
            raise InvalidError(f"{self.ref} names large content {self.blob!r}, which is no digest")
        self.body()

    def body(self) -> Payload:
        """What it said.

        Raises:
            InvalidError: It is the body of no memory.
        """
        return decode(bytes(self.payload))

    def _check_place(self) -> None:
        ref = self.ref
        check_token("access", self.access)
        check_name("agent", self.agent)
        check_topic(ref.topic)
        if not is_id(ref.id):
            check_key(ref.id)
        elif self.agent != ref.agent:
            raise InvalidError(f"{ref} by {self.agent!r}, who does not own it")

    def origin_of(self, board: str) -> str:
        """Where a copy of it says that it comes from: the outermost original."""
        stored = self.stored.isoformat(timespec="microseconds")
        return self.origin or f"{board}/{self.revision}/{stored}"


_read_line = decoder_of(Line)
_read_manifest = decoder_of(Manifest)


def line_of(memory: Memory, body: bytes, blob: str | None) -> bytes:
    """The line of a revision as it was read."""
    if memory.stored is None:
        raise AssertionError("a memory from the stream has a time")
    return encode_record(
        Line(
            ref=memory.ref.unpinned,
            access=memory.access,
            agent=memory.agent,
            revision=memory.revision,
            stored=memory.stored,
            expires=memory.expires,
            gone=memory.gone,
            reason=memory.reason,
            cause=memory.cause,
            origin=memory.origin,
            payload=msgspec.Raw(body or b"{}"),
            blob=blob,
        )
    )


def read_manifest(directory: Path) -> Manifest:
    """Read and check what an archive says of itself.

    Raises:
        SettingsError: It cannot be read.
        InvalidError: It is no archive, or one of another version.
    """
    path = directory / MANIFEST
    if path.exists() and (path.is_symlink() or not path.is_file()):
        # A pipe, or a link to a device, could be read for ever.
        raise InvalidError(f"{str(path)!r} is no plain file")
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise InvalidError(f"{str(path)!r} is too large to be a manifest")
        body = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read {str(path)!r} ({error.strerror}); name the directory of an export"
        ) from error
    try:
        manifest = read(_read_manifest, body)
    except InvalidError as error:
        raise InvalidError(f"{str(path)!r} is no manifest: {error}") from error
    if manifest.format != FORMAT:
        raise InvalidError(f"{str(path)!r} has format {manifest.format}; this reads {FORMAT}")
    check_token("board", manifest.board)
    for piece in manifest.pieces:
        if not FILE.match(piece.name) or not DIGEST.match(piece.sha256):
            raise InvalidError(f"{str(path)!r} names a file {piece.name!r}, which is none of ours")
    for blob in manifest.blobs:
        if not DIGEST.match(blob):
            raise InvalidError(f"{str(path)!r} names a blob {blob!r}, which is no digest")
    return manifest


def write_file(path: Path, body: bytes) -> None:
    """Replace a file whole; it is on disk when this returns.

    Raises:
        OSError: The disk is full, or the directory cannot be written to.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        # Whoever may read the directory may not for that read what is on the board.
        with open(fresh, "wb", opener=_privately) as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest."""
    body = msgspec.json.format(encode_record(manifest), indent=1)
    write_file(directory / MANIFEST, body + b"\n")


def sha256(path: Path) -> str:
    """The digest of a file that is no link.

    Raises:
        InvalidError: It is missing, or no plain file.
    """
    if path.is_symlink() or not path.is_file():
        raise InvalidError(f"{str(path)!r} is missing from the archive, or no plain file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lines_of(directory: Path, piece: Piece) -> Iterator[Line]:
    """The lines of a file.

    Raises:
        InvalidError: The file is not what its manifest says, or a line is none.
    """
    body = _read_piece(directory / piece.name, piece)
    number = 0
    for number, text in enumerate(body.splitlines(), 1):
        if len(text) > MAX_LINE:
            raise InvalidError(f"{piece.name}, line {number}, is above {MAX_LINE} bytes")
        try:
            yield read(_read_line, text)
        except InvalidError as error:
            raise InvalidError(f"{piece.name}, line {number}: {error}") from error
    if number != piece.lines:
        raise InvalidError(f"{piece.name} has {number} lines instead of {piece.lines}")


def _read_piece(path: Path, piece: Piece) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise InvalidError(f"{str(path)!r} is missing from the archive, or no plain file")
    if path.stat().st_size > PIECE_BYTES + MAX_LINE:
        raise InvalidError(f"{piece.name} is above {PIECE_BYTES + MAX_LINE} bytes")
    body = path.read_bytes()
    if hashlib.sha256(body).hexdigest() != piece.sha256:
        raise InvalidError(f"{piece.name} was damaged: it is not what its manifest says")
    return body
