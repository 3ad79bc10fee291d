"""Advisory locks on files: held by an open file, released by the kernel when its last holder ends.

`flock` and not `fcntl.lockf`: a lock of the former belongs to the open file, so a child process
that inherits the descriptor holds it too, and two users in one process do not undo each other.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from blackboard.errors import SettingsError

if sys.platform != "win32":
    import fcntl


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that is held; as a context manager it is released at the end."""

    path: Path
    fd: int

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock up, also for processes that inherited it."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)

    def leave(self) -> None:
        """Close the file here; a process that inherited it goes on holding the lock."""
        os.close(self.fd)

    def lost(self) -> bool:
        """Tell whether the path no longer leads to the locked file: its directory was removed."""
        try:
            return not os.path.samestat(os.fstat(self.fd), self.path.stat())
        except OSError:
            return True


def take_lock(path: Path, *, shared: bool = False) -> Lock | None:
    """Take a lock without waiting; None when another process holds it.

    The descriptor is not inherited by child processes unless it is handed to them.

    Raises:
        SettingsError: The file cannot be made or its file system has no locks.
    """
    while True:
        fd = _open(path, os.O_RDWR | os.O_CREAT)
        if not _lock(fd, path, shared=shared):
            return None
        lock = Lock(path, fd)
        if not lock.lost():
            return lock
        lock.release()  # removed between open and lock: what we hold is nobody's lock any more


def is_held(path: Path) -> bool:
    """Tell whether some process holds the lock exclusively; a missing file is not held.

    Raises:
        SettingsError: The file cannot be read or its file system has no locks.
    """
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    if _lock(fd, path, shared=True):
        Lock(path, fd).release()
        return False
    return True


def _open(path: Path, flags: int) -> int:
    if sys.platform == "win32":
        raise SettingsError(
            "the local stack needs Linux or macOS; start a nats-server and set BLACKBOARD_URL"
        )
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError) as error:
        if flags & os.O_CREAT:
            raise _unusable(path, error) from error
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise _unusable(path, error) from error


def _lock(fd: int, path: Path, *, shared: bool) -> bool:
    """Lock without waiting; on failure the descriptor is closed."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    except OSError as error:
        os.close(fd)
        raise _unusable(path, error) from error
    return True


def _unusable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"cannot lock {str(path)!r} ({error.strerror}); "
        "set BLACKBOARD_DATA to a directory on a local file system that this user may write to"
    )
