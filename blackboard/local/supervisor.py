"""The supervisor: owns the broker and the services of one data directory for as long as it is used.

It is a plain loop in one thread without an event loop: it has to start fast, to fork safely and to
be the last thing that breaks.
"""

import contextlib
import logging
import os
import select
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec

from blackboard.access.keys import Keyring
from blackboard.errors import BlackboardError, SettingsError, UnavailableError
from blackboard.files import write_private
from blackboard.local.broker import (
    PROGRAM,
    Greeting,
    configuration,
    find_program,
    free_ports,
    read_digest,
    read_greeting,
    tried_digest,
)
from blackboard.local.child import Child
from blackboard.local.directory import Directory, State
from blackboard.local.locks import Lock, take_lock
from blackboard.local.security import Security, move_store, read_security

LOG = logging.getLogger(__name__)
SERVICES: Sequence[tuple[str, Sequence[str]]] = (
    ("steward", (sys.executable, "-P", "-m", "blackboard.steward")),
    ("recall", (sys.executable, "-P", "-m", "blackboard.recall", "--lazy")),
    ("consolidator", (sys.executable, "-P", "-m", "blackboard.consolidator")),
)
POLL_S = 0.3
QUICK_POLL_S = 0.02
START_LIMIT_S = 50.0  # below the limit of a user who waits, so that the user is told why
READY_LIMIT_S = 5.0
RELOAD_LIMIT_S = 10.0  # below the limit of a user who waits for it
BROKER_GRACE_S = 10.0
SERVICE_GRACE_S = 5.0
BROKER_LONGEST_DELAY_S = 0.5  # whoever kills it again and again still finds it within a second
SERVICE_LONGEST_DELAY_S = 60.0
SERVICE_HEALTHY_AFTER_S = 10.0
LOG_BYTES = 8 * 1024 * 1024


class Signals:
    """Wakes the loop: SIGTERM and SIGINT ask it to end, SIGCHLD tells that a child ended.

    With credentials SIGHUP asks it to read the access policy again; without it ends the process, as
    it does others.
    """

    def __init__(self) -> None:
        self.asked_to_stop = False
        self.asked_to_reload = False
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def wait(self, seconds: float) -> None:
        """Sleep until a signal comes or the time is over."""
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 4096)

    def take_reloads(self) -> None:
        """From now on, SIGHUP asks to read the policy again."""
        signal.signal(signal.SIGHUP, self._reload)

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        self.asked_to_reload = True

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        LOG.info("asked to stop by %s", signal.Signals(number).name)
        self.asked_to_stop = True


class Supervisor:
    """Runs the stack of a data directory until nobody uses it or it is told to end.

    Args:
        directory: The data directory.
        port: Where the broker listens if it can; 0 for any free port.
        lock: The supervisor's lock, held.
        services: Name and command of each service.
    """

    def __init__(
        self,
        directory: Directory,
        port: int,
        lock: Lock,
        services: Sequence[tuple[str, Sequence[str]]] = SERVICES,
    ) -> None:
        self._directory = directory
        self._port = port
        self._lock = lock
        self._services = services
        self._signals = Signals()
        self._name = f"local-{uuid.uuid4().hex[:12]}"
        self._children: list[Child] = []
        self._security: Security | None = None
        self._state: State | None = None
        self._ready: Lock | None = None
        # Held from the decision to end until the end of this process: whoever comes waits.
        self._nobody: Lock | None = None

    def run(self) -> int:
        """Start everything, watch it, end it; the exit code says whether it ever ran."""
        os.umask(0o077)
        LOG.info("supervisor of %s, pid %d", self._directory.path, os.getpid())
        failure: Exception | None = None
        try:
            self._open()
            self._watch()
        except (BlackboardError, OSError) as error:
            failure = error
        finally:
            self._close()
        if failure is not None:
            LOG.error("%s", failure)  # comes last: users are shown the last line of the log
            return 1
        LOG.info("supervisor ended")
        return 0

    def _open(self) -> None:
        leftover = self._directory.read_state()
        self._directory.remove_state()
        self._security = read_security(self._directory)
        if self._security is not None:
            self._signals.take_reloads()
            move_store(self._directory)
        # After a crash clients may still look for the broker where it was, so that port goes first.
        wanted = (self._port,) if leftover is None else (leftover.port, self._port)
        greeting = self._start_broker(wanted)
        LOG.info("%s %s answers at %s", PROGRAM, greeting.version, self._running().url)
        self._plan_services()
        self._record()
        self._ready = self._take_ready()

    def _start_broker(self, wanted: tuple[int, ...]) -> Greeting:
        deadline = time.monotonic() + START_LIMIT_S
        for port, monitor in zip(free_ports(*wanted), free_ports(), strict=False):
            self._configure(self._directory.config_file, port, monitor, self._security)
            child = self._broker(port)
            self._children = [child]
            child.start()
            greeting = self._await_greeting(child, port, deadline)
            if greeting is not None:
                self._state = State(
                    url=f"nats://127.0.0.1:{port}",
                    monitor=f"http://127.0.0.1:{monitor}",
                    name=self._name,
                    port=port,
                    pids={},
                    versions={PROGRAM: greeting.version, "python": sys.version.split()[0]},
                    access=None if self._security is None else self._security.digest,
                )
                return greeting
            child.stop(BROKER_GRACE_S)  # gives up its lock for the next try
        log = self._directory.log(PROGRAM)
        raise UnavailableError(f"{PROGRAM} does not start on any port; see {str(log)!r}")

    def _configure(self, path: Path, port: int, monitor: int, security: Security | None) -> None:
        who = (
            {"token": self._directory.ensure_token()}
            if security is None
            else {"accounts": security.accounts}
        )
        text = configuration(name=self._name, port=port, monitor=monitor, **who)
        write_private(path, text.encode())

    def _broker(self, port: int) -> Child:
        return Child(
            PROGRAM,
            (find_program(), "-c", str(self._directory.config_file)),
            directory=self._directory,
            longest_delay_s=BROKER_LONGEST_DELAY_S,
            healthy=lambda _age: self._greeting(port) is not None,
        )

    def _await_greeting(self, child: Child, port: int, deadline: float) -> Greeting | None:
        """Wait for the broker; None when it ended, which is how it says that a port is taken."""
        while not child.exited():
            greeting = self._greeting(port)
            if greeting is not None:
                child.is_healthy = True
                return greeting
            if self._signals.asked_to_stop or time.monotonic() > deadline:
                raise UnavailableError(f"{PROGRAM} did not answer; it was stopped")
            self._signals.wait(QUICK_POLL_S)
        return None

    def _greeting(self, port: int) -> Greeting | None:
        """Read the broker's greeting; whoever else answers on its port does not count."""
        greeting = read_greeting(port)
        return greeting if greeting is not None and greeting.server_name == self._name else None

    def _plan_services(self) -> None:
        """Make the services due; the loop starts them, so that none can keep the broker down."""
        self._children += [
            Child(
                name,
                argv,
                directory=self._directory,
                longest_delay_s=SERVICE_LONGEST_DELAY_S,
                healthy=lambda age: age > SERVICE_HEALTHY_AFTER_S,
                environment=self._environment(name),
            )
            for name, argv in self._services
        ]

    def _environment(self, service: str) -> dict[str, str]:
        """Where a service finds the broker, and what lets it in: the token, or its credential."""
        environment = {
            **os.environ,
            "BLACKBOARD_URL": self._running().url,
            "BLACKBOARD_DATA": str(self._directory.path),
            "BLACKBOARD_BROKER_LOG": str(self._directory.log(PROGRAM)),
            "BLACKBOARD_STORE": str(self._directory.path / "jetstream"),
        }
        # Of whoever started the stack; a policy is put on its board by `up`.
        for name in ("BLACKBOARD_TOKEN_FILE", "BLACKBOARD_CREDENTIALS", "BLACKBOARD_RETENTION"):
            environment.pop(name, None)
        if self._security is None:
            environment["BLACKBOARD_TOKEN_FILE"] = str(self._directory.token_file)
        else:
            own = Keyring(self._directory.credentials).path(service)
            environment["BLACKBOARD_CREDENTIALS"] = str(own)
        return environment

    def _take_ready(self) -> Lock:
        """Take the lock that makes the state file count; a user may be looking at it just now."""
        deadline = time.monotonic() + READY_LIMIT_S
        while (lock := take_lock(self._directory.ready_lock)) is None:
            if time.monotonic() > deadline:
                raise UnavailableError(f"{str(self._directory.ready_lock)!r} is held by a stranger")
            self._signals.wait(QUICK_POLL_S)
        return lock

    def _watch(self) -> None:
        while not self._signals.asked_to_stop:
            if self._lock.lost():
                LOG.warning("the data directory was removed, ending")
                return
            self._nobody = take_lock(self._directory.users_lock)
            if self._nobody is not None:
                LOG.info("nobody uses the stack any more, ending")
                return
            if self._signals.asked_to_reload:
                self._signals.asked_to_reload = False
                self._take_policy()
            changed = [child.tend() for child in self._children]
            try:
                if any(changed):
                    self._record()
                self._shorten_logs()
            except OSError as error:
                LOG.warning("%s", error)  # a full disk is no reason to end the broker
            self._signals.wait(self._pause())

    def _take_policy(self) -> None:
        """Have the broker take the policy as it is now; a broken one changes nothing."""
        try:
            security = read_security(self._directory)
            if security is None:
                raise SettingsError("the access policy is gone")
            self._tell_broker(security)
        except (BlackboardError, OSError) as error:
            LOG.error("the access policy is not taken, the one before stays: %s", error)  # noqa: TRY400 - a sentence for the user
            return
        self._security = security
        LOG.info("access policy %s in force", security.policy.digest[:12])

    def _tell_broker(self, security: Security) -> None:
        """Let the broker read a policy without losing a client.

        Raises:
            UnavailableError: It would not start with it, or does not take it in time.
        """
        state, broker = self._running(), self._children[0]
        fresh = self._directory.config_file.with_suffix(".conf.new")
        self._configure(fresh, state.port, int(state.monitor.rpartition(":")[2]), security)
        digest = tried_digest(fresh)
        fresh.replace(self._directory.config_file)
        if broker.pid is not None:
            os.kill(broker.pid, signal.SIGHUP)
        deadline = time.monotonic() + RELOAD_LIMIT_S
        while read_digest(state.monitor) != digest:
            if time.monotonic() > deadline:
                raise UnavailableError(f"{PROGRAM} does not say that it has read it")
            broker.tend()  # one that ends just now reads it when it is back
            self._signals.wait(QUICK_POLL_S)
        self._state = msgspec.structs.replace(state, access=security.digest)
        self._record()

    def _pause(self) -> float:
        return min(POLL_S, *(child.due_in() for child in self._children))

    def _record(self) -> None:
        pids = {child.name: child.pid for child in self._children if child.pid is not None}
        state = self._running()
        state.pids.clear()
        state.pids.update({"supervisor": os.getpid(), **pids})
        self._directory.write_state(state)

    def _running(self) -> State:
        if self._state is None:
            raise UnavailableError("the stack is not running")
        return self._state

    def _shorten_logs(self) -> None:
        """Cut logs in place, keeping one older part: their writers have them open for appending."""
        for name in ("supervisor", *(child.name for child in self._children)):
            log = self._directory.log(name)
            if log.exists() and log.stat().st_size > LOG_BYTES:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)

    def _close(self) -> None:
        if not self._lock.lost():  # else a new stack may already live at this path
            with contextlib.suppress(OSError):
                self._directory.remove_state()
        if self._ready is not None:
            self._ready.release()
        for child in reversed(self._children):  # the broker last: services say goodbye to it
            child.stop(BROKER_GRACE_S if child.name == PROGRAM else SERVICE_GRACE_S)
