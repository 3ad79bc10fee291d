"""A directory of backups: blocks that they share, and one manifest for each.

    backup-000001.json   what it is of, and which blocks hold it, with a checksum of itself
    blocks/<sha256>      packed messages of one stream, called by the digest of the file
    heard.json           up to when it was asked what was forgotten

A block is written whole before a manifest names it, and taken away only when none does. So whoever
is killed at any moment leaves the earlier backups as they were, and what he wrote for nothing is
swept away by the next. Only the owner may read any of it.
"""

import hashlib
import os
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import msgspec

from blackboard.backup.format import MAX_BLOCK, Backup, Block, Filed, kept_streams, seal, unseal
from blackboard.errors import InvalidError, NotFoundError, SettingsError
from blackboard.files import write_private
from blackboard.jetstream.packed import Record, expand, pack, squeeze, unpack
from blackboard.local.locks import take_lock

BLOCKS = "blocks"
HEARD = "heard.json"
LOCK = ".lock"
MANIFEST = re.compile(r"backup-([0-9]{6})\.json\Z")
MAX_MANIFEST = 256 * 1024 * 1024
LAST_NUMBER = 999_999


class Heard(msgspec.Struct, frozen=True):
    """Up to when a vault knows what was forgotten.

    Attributes:
        at: When it asked.
        url: Whom.
    """

    at: datetime
    url: str = ""


class Vault:
    """A directory of backups of one board.

    Attributes:
        directory: It.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def held(self, *, create: bool = False) -> Generator[None]:
        """Keep others out for the block.

        Args:
            create: Make the directory when it is not there.

        Raises:
            SettingsError: It cannot be used, holds something else, or is in use.
        """
        with told(self.directory):
            if create:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not (self.directory / BLOCKS).is_dir() and any(self.directory.iterdir()):
                    raise SettingsError(
                        f"{str(self.directory)!r} holds something else; name a new directory"
                    )
                (self.directory / BLOCKS).mkdir(mode=0o700, exist_ok=True)
            elif not (self.directory / BLOCKS).is_dir():
                raise SettingsError(
                    f"{str(self.directory)!r} holds no backups; name the directory of some"
                )
            lock = take_lock(self.directory / LOCK)
        if lock is None:
            raise SettingsError(
                f"another command works with {str(self.directory)!r}; wait until it is done"
            )
        with lock:
            yield

    def numbers(self) -> list[int]:
        """The numbers of its backups, in order."""
        with told(self.directory):
            found = [MANIFEST.match(path.name) for path in self.directory.iterdir()]
        return sorted(int(one[1]) for one in found if one is not None)

    def backup(self, number: int | None = None) -> Backup:
        """One of its backups.

        Args:
            number: Of it; None means the newest.

        Raises:
            NotFoundError: There is none.
            InvalidError: Its manifest is damaged.
        """
        numbers = self.numbers()
        if not numbers or (number is not None and number not in numbers):
            which = "no backup" if number is None else f"no backup {number}"
            raise NotFoundError(
                f"there is {which} in {str(self.directory)!r}; see `blackboard backup list`"
            )
        path = self._manifest(numbers[-1] if number is None else number)
        try:
            backup = unseal(_read(path, MAX_MANIFEST))
        except InvalidError as error:
            raise InvalidError(
                f"{str(path)!r}: {error}; bring the file back from a copy, or delete it to give "
                "that backup up"
            ) from error
        if backup.number != int(path.stem.partition("-")[2]):
            raise InvalidError(f"{str(path)!r} is the manifest of backup {backup.number}")
        return backup

    def backups(self) -> list[Backup]:
        """All of them, in order.

        Raises:
            InvalidError: A manifest is damaged.
        """
        return [self.backup(number) for number in self.numbers()]

    def keep(self, backup: Backup) -> None:
        """Add a backup, or put another in its place; on disk when this returns."""
        with told(self.directory):
            _sync(self.directory / BLOCKS)
            write_private(self._manifest(backup.number), seal(backup))
            _sync(self.directory)

    def drop(self, number: int) -> None:
        """Take a backup away; its blocks go with the next sweep."""
        with told(self.directory):
            self._manifest(number).unlink(missing_ok=True)
            _sync(self.directory)

    @property
    def heard(self) -> Heard | None:
        """Up to when it knows what was forgotten; None when it never asked."""
        path = self.directory / HEARD
        return msgspec.json.decode(_read(path, 4096), type=Heard) if path.exists() else None

    def hear(self, heard: Heard) -> None:
        """Note up to when it knows what was forgotten."""
        with told(self.directory):
            write_private(self.directory / HEARD, msgspec.json.encode(heard))

    # Blocks

    def store(self, records: Sequence[Record]) -> tuple[Block, int]:
        """Write a block, unless it is there; gives it and how much was written."""
        body = b"".join(map(pack, records))
        squeezed = squeeze(body)
        name = hashlib.sha256(squeezed).hexdigest()
        first, last = records[0].sequence, records[-1].sequence
        block = Block(name, first, last, len(records), len(squeezed), len(body))
        path = self._block(name)
        with told(self.directory):
            if path.is_file() and path.stat().st_size == block.size:
                return block, 0
            write_private(path, squeezed)
        return block, block.size

    def body(self, block: Block) -> bytes:
        """A block as it is on disk.

        Raises:
            InvalidError: It is missing or damaged.
        """
        path = self._block(block.name)
        body = _read(path, MAX_BLOCK)
        if hashlib.sha256(body).hexdigest() != block.name:
            raise InvalidError(f"{str(path)!r} was damaged: it is not what its name says")
        return body

    def records(self, block: Block) -> Iterator[Record]:
        """The messages of a block.

        Raises:
            InvalidError: It is missing, damaged, or not what its manifest says.
        """
        path = self._block(block.name)
        found = list(unpack(expand(self.body(block))))
        sequences = [record.sequence for record in found]
        said = (block.first, block.last, block.messages)
        if not found or (sequences[0], sequences[-1], len(found)) != said:
            raise InvalidError(f"{str(path)!r} does not hold what its manifest says")
        if any(one >= two for one, two in pairwise(sequences)):
            raise InvalidError(f"{str(path)!r} holds messages out of order")
        yield from found

    def all_records(self, stream: Filed) -> Iterator[Record]:
        """The messages of a stream."""
        for block in stream.blocks:
            yield from self.records(block)

    def check(self, backup: Backup, *, known: set[str] | None = None) -> list[str]:
        """Look at every byte of a backup; gives what is wrong, in words.

        Args:
            backup: It.
            known: Blocks that were looked at before; more are added.
        """
        seen = set[str]() if known is None else known
        subjects = kept_streams(backup.board)
        wrong: list[str] = []
        for stream in backup.streams:
            for block in stream.blocks:
                if block.name in seen:
                    continue
                seen.add(block.name)
                try:
                    for record in self.records(block):
                        if not record.subject.startswith(subjects[stream.name]):
                            raise InvalidError(
                                f"{str(self._block(block.name))!r} holds a message of "
                                f"{record.subject!r}, which {stream.name} has not"
                            )
                except (InvalidError, SettingsError) as error:
                    wrong.append(str(error))
        return wrong

    def sweep(self) -> int:
        """Remove what no backup names; gives how many files.

        Nothing is removed while a manifest cannot be read: it may name anything.
        """
        named = {block.name for backup in self.backups() for block in backup.blocks}
        gone = 0
        with told(self.directory):
            for path in (self.directory / BLOCKS).iterdir():
                if path.name not in named:
                    path.unlink()
                    gone += 1
        return gone

    def _manifest(self, number: int) -> Path:
        return self.directory / f"backup-{number:06}.json"

    def _block(self, name: str) -> Path:
        return self.directory / BLOCKS / name


@contextmanager
def told(directory: Path) -> Generator[None]:
    """Turn what the disk refuses into words."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"cannot use {str(directory)!r} ({error.strerror}); backups that are there stay as "
            "they are: make room, or name another directory, and run it again"
        ) from error


def _read(path: Path, limit: int) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise InvalidError(f"{str(path)!r} is missing, or no plain file")
    with told(path):
        if path.stat().st_size > limit:
            raise InvalidError(f"{str(path)!r} is above {limit} bytes, so it is none of ours")
        return path.read_bytes()


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
