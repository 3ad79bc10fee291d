"""What tests of forgetting share: a steward as a process, and what its files hold."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Steward:
    """One process of `python -m blackboard.steward`, that can be killed and started again.

    Args:
        url: The broker.
        log: Where it writes its log; its data lies beside it.
        monitors: The servers' monitoring.
        stores: The servers' directories, where it may look into them.
    """

    def __init__(
        self, url: str, log: Path, *arguments: str, monitors: str = "", stores: str = ""
    ) -> None:
        self._url = url
        self._monitors = monitors
        self._stores = stores
        self.data = log.with_suffix("")
        self._log = log
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again on what the earlier one left."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "blackboard.steward", *self._arguments],
                env={
                    **os.environ,
                    "BLACKBOARD_URL": self._url,
                    "BLACKBOARD_DATA": str(self.data),
                    "BLACKBOARD_MONITOR": self._monitors,
                    "BLACKBOARD_STORE": self._stores,
                    "PYTHONPATH": str(ROOT),
                },
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def files_with(directory: Path, word: str) -> list[str]:
    """The files under a directory that hold a word."""
    found: list[str] = []
    for place, _, names in os.walk(directory):  # which passes over what goes away meanwhile
        for name in names:
            path = Path(place, name)
            try:
                if path.is_file() and word.encode() in path.read_bytes():
                    found.append(str(path.relative_to(directory)))
            except FileNotFoundError:
                continue  # the broker writes its files anew beside the old ones
    return found
