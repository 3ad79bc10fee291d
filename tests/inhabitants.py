"""The processes of a local stack, as the operating system sees them."""

from pathlib import Path

import psutil


def inhabitants(data_dir: Path) -> list[psutil.Process]:
    """List the living processes that work in a data directory: supervisor, broker and services.

    Users of the stack work elsewhere and are not among them.
    """
    return [process for process in psutil.process_iter() if _works_in(process, str(data_dir))]


def is_alive(pid: int) -> bool:
    """Tell whether a process lives; one that ended and was not yet reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _works_in(process: psutil.Process, directory: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.cwd().removesuffix(" (deleted)") == directory
    except psutil.Error:
        return False
