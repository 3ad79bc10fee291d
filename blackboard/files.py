"""Files that only their owner may read, written whole or not at all."""

import contextlib
import os
from pathlib import Path


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
