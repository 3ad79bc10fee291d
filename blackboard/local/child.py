"""One supervised child process: started, restarted with growing delays, ended; orphans included.

Each child inherits a locked file into which it writes its pid before its program begins. A child
that outlives a killed supervisor therefore still holds the lock, and the next supervisor ends it
before it starts its own: two brokers never work on one store.
"""

import ctypes
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from blackboard.errors import UnavailableError
from blackboard.local.directory import Directory
from blackboard.local.locks import Lock, take_lock

LOG = logging.getLogger(__name__)
FIRST_DELAY_S = 0.1
POLL_S = 0.02
ORPHAN_GRACE_S = 3.0
ORPHAN_LIMIT_S = 15.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Loaded here because loading between fork and exec is not safe.
_LIBC = ctypes.CDLL(None)


class Child:
    """A child process of the supervisor.

    Args:
        name: Names it in logs and state.
        argv: Program and arguments; no secrets, since every user of the machine can read them.
        directory: Where it works, logs, and has its lock file.
        longest_delay_s: Upper limit of the delay before a restart; it starts at 0.1 s and doubles.
        healthy: Told the age in seconds; true ends the doubling.
        environment: All its variables; None means those of this process.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        directory: Directory,
        longest_delay_s: float,
        healthy: Callable[[float], bool],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.is_healthy = False
        self._argv = argv
        self._lock_path = directory.lock(name)
        self._lock: Lock | None = None
        self._log = directory.log(name)
        self._environment = environment
        self._longest_delay_s = longest_delay_s
        self._healthy = healthy
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._delay_s = FIRST_DELAY_S
        self._due_at = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Process id; None while it is not running."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, after ending one that an earlier supervisor left.

        Raises:
            UnavailableError: The earlier one does not end.
            OSError: The process cannot be made.
        """
        if self._lock is None:
            self._lock = take_over(self._lock_path)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the supervisor's own commands
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._log.parent,
                env=self._environment,
                pass_fds=(self._lock.fd,),
                # Safe here: the supervisor has one thread, so no lock can be held by another.
                preexec_fn=_birth(self._lock.fd),  # noqa: PLW1509
            )
        self._started_at = time.monotonic()
        self._due_at = math.inf
        self.is_healthy = False
        LOG.info("%s started, pid %d", self.name, self._process.pid)

    def exited(self) -> bool:
        """Tell whether the process has ended, and then plan its restart."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            self._plan(f"ended with code {code}")
        return self._process is None

    def tend(self) -> bool:
        """Start the process when it is due; true when its pid has changed."""
        before = self.pid
        if self.exited() and time.monotonic() >= self._due_at:
            try:
                self.start()
            except (OSError, UnavailableError) as error:
                self._plan(f"cannot be started: {error}")
        if self._process is not None and not self.is_healthy:
            self.is_healthy = self._healthy(time.monotonic() - self._started_at)
            if self.is_healthy:
                self._delay_s = FIRST_DELAY_S
        return self.pid != before

    def due_in(self) -> float:
        """Seconds until the planned start; infinite when it runs."""
        return max(0.0, self._due_at - time.monotonic())

    def stop(self, grace_s: float) -> None:
        """End the process: SIGTERM, after the grace period SIGKILL; give up its lock."""
        self._due_at = math.inf
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                LOG.warning("%s does not end within %g s, killed", self.name, grace_s)
                self._process.kill()
                self._process.wait()
            LOG.info("%s stopped", self.name)
            self._process = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _plan(self, why: str) -> None:
        LOG.warning("%s %s, next start in %g s", self.name, why, self._delay_s)
        self._due_at = time.monotonic() + self._delay_s
        self._delay_s = min(self._delay_s * 2, self._longest_delay_s)


def take_over(path: Path) -> Lock:
    """Take a child's lock, ending the process that still holds it.

    Only a process that is proven to hold the lock is touched, never a mere number in a file.

    Raises:
        UnavailableError: It neither ends nor can be proven to be ours.
    """
    begun = time.monotonic()
    asked = False
    while (lock := take_lock(path)) is None:
        age = time.monotonic() - begun
        if age > ORPHAN_LIMIT_S:
            raise UnavailableError(
                f"a process that an earlier supervisor left holds {str(path)!r} and does not end; "
                f"see who it is with: lsof {str(path)!r}"
            )
        if not asked:
            asked = _signal_holder(path, signal.SIGTERM)
        elif age > ORPHAN_GRACE_S:
            _signal_holder(path, signal.SIGKILL)
        time.sleep(POLL_S)
    return lock


def _signal_holder(path: Path, number: signal.Signals) -> bool:
    """Signal the process whose pid is in the file, if it has that very file open."""
    try:
        pid = int(path.read_text("ascii"))
    except (OSError, ValueError):
        return False  # not written yet: that happens before the program begins
    sent = pid > 1 and _signal(pid, path, number)
    if sent:
        LOG.warning("left by an earlier supervisor: pid %d, sent %s", pid, number.name)
    return sent


def _signal(pid: int, path: Path, number: signal.Signals) -> bool:
    pin = _pin(pid)
    try:
        if not (has_open(pid, path) if Path("/proc/self/fd").exists() else is_listed(pid, path)):
            return False
        if pin is not None and sys.platform == "linux":
            signal.pidfd_send_signal(pin, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    finally:
        if pin is not None:
            os.close(pin)
    return True


def _pin(pid: int) -> int | None:
    """Hold on to the process, so that its number cannot become another's between look and signal.

    Linux 5.3 and later; elsewhere None, and that moment stays.
    """
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except (OSError, AttributeError):
        return None


def has_open(pid: int, path: Path) -> bool:
    """Tell from /proc whether the process has the file open."""
    wanted = path.stat()
    try:
        return any(_is_same(entry, wanted) for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # ended meanwhile, or another user's


def is_listed(pid: int, path: Path) -> bool:
    """Ask the program lsof whether the process has the file open (where there is no /proc)."""
    command = ("lsof", "-t", "--", str(path))
    listed = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own path
    return str(pid).encode() in listed.stdout.split()


def _is_same(entry: Path, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(entry.stat(), wanted)
    except OSError:
        return False


def _birth(lock_fd: int) -> Callable[[], None]:
    """Give what the child does before its program begins: write its pid; die with its parent."""
    parent = os.getpid()

    def run() -> None:
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, b"%d\n" % os.getpid(), 0)
        if sys.platform == "linux":
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # the parent died before we asked to be told

    return run
