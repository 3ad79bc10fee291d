"""Files that only their owner may read, written whole or not at all."""

import contextlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_private(path: Path, content: bytes) -> None:
    """Replace a file at once by one that only the owner may read (mode 0600)."""
    fresh = path.with_name(f".{path.name}.new")
    _write(fresh, content)
    fresh.replace(path)


def create_private(path: Path, content: bytes) -> bool:
    """The same for a file that is not there yet; one that is stays as it is.

    Returns:
        Whether the file was made here; of several who try at once, one is told so.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    _write(fresh, content)
    try:
        path.hardlink_to(fresh)
    except FileExistsError:
        return False
    finally:
        fresh.unlink()
    return True


def _write(fresh: Path, content: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()  # left by a killed writer
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def private(path: Path) -> Generator[BinaryIO]:
    """Write a file that only the owner may read, piece by piece; it is there when all of it is.

    Raises:
        OSError: The disk is full, or the directory cannot be written to; the path is as it was.
    """
    fresh = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
