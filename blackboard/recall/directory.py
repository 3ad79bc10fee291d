"""The directory of an embedded index: whose it is, what it holds, and how far that reaches.

    lock              held by the one process that has it open
    index.json        signature, position, and which generation is the engine's
    generation-<x>/   the engine's files; others than the named one are left-overs

The small file is replaced whole. It is the only thing that changes over from one generation to the
next, so that a crash leaves either the one or the other.
"""

import errno
import fcntl
import os
import shutil
from io import TextIOWrapper
from pathlib import Path

import msgspec

from blackboard.errors import SettingsError, UnavailableError
from blackboard.recall import points
from blackboard.recall.index import BrokenIndexError, Signature

BOOKS = "index.json"
PART = f"{BOOKS}.part"
LOCK = "lock"
GENERATION = "generation-"
CHUNK = 1 << 20


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What the small file says.

    Attributes:
        format: Of the directory and of the points in it (`points.FORMAT`).
        signature: What the index was built with.
        generation: Which of the directories beside it is the engine's.
        position: Everything up to this revision is on disk.
        removed: Memories taken out or replaced since their bytes were last taken off the disk.
        sorted: Memories there were when graphs were last built.
        held: Memories there were when it was closed in good order; None while it is open and after
            a crash, when nobody can say.
    """

    format: int
    signature: Signature
    generation: str
    position: int
    removed: int = 0
    sorted: int = 0
    held: int | None = None


class Directory:
    """A directory that this process owns, until `release`; make one with `take`."""

    def __init__(self, path: Path, lock: TextIOWrapper, books: Books) -> None:
        self.path = path
        self.books = books
        self._lock = lock

    @classmethod
    def take(cls, path: Path, signature: Signature) -> "Directory":
        """Make or open a directory, and remove what an interrupted start or tidying left there.

        Raises:
            UnavailableError: Another process has it open.
            SettingsError: It cannot be used, or is no index.
            MismatchError: It was built with another signature.
            BrokenIndexError: It cannot be read.
        """
        _prepare(path)
        lock = _locked(path)
        try:
            books = _read(path, signature)
            for left in path.glob(f"{GENERATION}*"):
                # What was never flushed has no position; it is begun again.
                if left.name != f"{GENERATION}{books.generation}" or books.position == 0:
                    remove(left)
        except BaseException:
            lock.close()
            raise
        return cls(path, lock, books)

    def generation(self, name: str | None = None) -> Path:
        """Where a generation's files are; by default the one in service."""
        return self.path / f"{GENERATION}{name or self.books.generation}"

    def keep(self, books: Books) -> None:
        """Replace what the small file says; durable when it returns."""
        _write(self.path, books)
        self.books = books

    def release(self) -> None:
        """Let others have it."""
        self._lock.close()


def broken(path: Path, why: object) -> BrokenIndexError:
    """The error for a directory that cannot be read."""
    return BrokenIndexError(
        f"the index in {str(path)!r} cannot be read ({why}); nothing is lost, the board holds "
        "everything: run `blackboard reindex`, or remove the directory"
    )


def remove(path: Path) -> None:
    """Remove a tree, or what can be of it."""
    shutil.rmtree(path, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Copy a tree without the holes of its files, which are most of what the engine lays out."""
    shutil.copytree(source, target, copy_function=_copy_file)


def _copy_file(source: str, target: str) -> str:
    with Path(source).open("rb", buffering=0) as old, Path(target).open("wb", buffering=0) as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # the rest is a hole
                    break
                raise
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            old.seek(at)
            new.seek(at)
            while at < end:
                at += new.write(old.read(min(end - at, CHUNK)))
        new.truncate(size)
    return target


def _prepare(path: Path) -> None:
    """Make the directory, unless it is somebody else's."""
    try:
        path.mkdir(exist_ok=True)
        names = {one.name for one in path.iterdir()}
    except OSError as error:
        raise SettingsError(
            f"cannot use {str(path)!r} for the index ({error.strerror}); name a directory that "
            "this user may write"
        ) from error
    if BOOKS not in names and names - {LOCK, PART}:
        raise SettingsError(
            f"{str(path)!r} holds something that is no index ({min(names - {LOCK, PART})!r}); "
            "name another directory, or remove what is there"
        )


def _locked(path: Path) -> TextIOWrapper:
    # The kernel lets go of the lock when its holder dies, so there is no stale one to break.
    try:
        lock = (path / LOCK).open("a+")
    except OSError as error:
        raise SettingsError(
            f"cannot write to {str(path)!r} ({error.strerror}); name a directory that this user "
            "may write"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise UnavailableError(
            f"the index in {str(path)!r} is open in {holder}, and one process owns an index; end "
            "that one, or ask it"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def _read(path: Path, signature: Signature) -> Books:
    if not (path / BOOKS).exists():
        books = Books(format=points.FORMAT, signature=signature, generation="0", position=0)
        _write(path, books)
        return books
    try:
        books = msgspec.json.decode((path / BOOKS).read_bytes(), type=Books)
    except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
        raise broken(path, error) from error
    points.check_format(books.format, str(path))
    points.check_signature(books.signature, signature, str(path))
    if books.position and not (path / f"{GENERATION}{books.generation}").is_dir():
        raise broken(path, "its data are gone")
    return books


def _write(path: Path, books: Books) -> None:
    """Replace the small file, whole or not at all, also across a power cut."""
    with (path / PART).open("wb") as file:
        file.write(msgspec.json.encode(books))
        file.flush()
        os.fsync(file.fileno())
    (path / PART).replace(path / BOOKS)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
