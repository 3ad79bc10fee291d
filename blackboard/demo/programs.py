"""Starts the flock's programs as processes, minds them, and ends every one of them.

A process that ends by itself is a failure: it is noticed at once, with what it said last.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

from blackboard.errors import BlackboardError, SettingsError

ROLES = ("reader", "summarizer", "merger")
GRACE_S = 5.0
LAST_WORDS = 15
"""Lines of a dead program's output that are shown."""


class Pulse:
    """Wakes the one task that waits whenever something happened."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def beat(self) -> None:
        """Something happened."""
        self._event.set()

    async def wait(self, at_most_s: float) -> None:
        """Wait until something happened since the last call, or for a time."""
        with anyio.move_on_after(at_most_s):
            await self._event.wait()
        self._event = anyio.Event()


class ProgramError(BlackboardError):
    """A program of the flock ended by itself.

    Args:
        message: Which, and how.
        said: The end of its output.
    """

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(f"{message}: {said.splitlines()[-1]}" if said else message)
        self.said = said


def find(name: str = "flock", program: str = f"{ROLES[0]}.py") -> Path:
    """Return a folder of programs: in a checkout, or in an installed package.

    They are data, not modules: `agents` is the import name of a well-known SDK.

    Args:
        name: Of the folder.
        program: One that is in it.

    Raises:
        SettingsError: They are in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_agents" / name, package.parent / "agents" / name):
        if (folder / program).is_file():
            return folder
    raise SettingsError(f"the programs of {name!r} are not installed; reinstall blackboard-agents")


@dataclass(slots=True, eq=False)
class Program:
    """One process.

    Attributes:
        name: `<team>-<role>`.
        log: What it says goes here.
    """

    name: str
    process: anyio.abc.Process
    log: Path
    ended_by_us: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, or is stopped."""
        return self.process.returncode is None

    def freeze(self) -> None:
        """Stop it where it is (SIGSTOP)."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run on (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it at once (SIGKILL) and wait until it is gone."""
        self.ended_by_us = True
        self.process.kill()
        await self.process.wait()

    def last_words(self) -> str:
        """The end of what it said."""
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-LAST_WORDS:])


@dataclass(slots=True)
class Troupe:
    """The running programs of one act.

    Attributes:
        failure: Why it cannot go on; None while all is well.
    """

    folder: Path
    logs: Path
    environment: Mapping[str, str]
    tasks: anyio.abc.TaskGroup
    pulse: Pulse
    programs: list[Program] = field(default_factory=list[Program])
    failure: BlackboardError | None = None

    async def start(self, team: str, role: str, settings: Mapping[str, str]) -> Program:
        """Start one program of the flock for a team; settings are added to its environment."""
        told = {**settings, "FLOCK_TEAM": team, "FLOCK_PARENT": str(os.getpid())}
        return await self.launch(f"{team}-{role}", f"{role}.py", told)

    async def launch(
        self, name: str, file: str, settings: Mapping[str, str], *arguments: str
    ) -> Program:
        """Start one program.

        Args:
            name: For its log, and when something has to be said about it.
            file: In the folder of the programs.
            settings: Added to its environment.
            *arguments: Added to its command line.
        """
        log = self.logs / f"{name}-{len(self.programs)}.log"
        command = [sys.executable, str(self.folder / file), "--grace", str(GRACE_S - 2)]
        scope = anyio.CancelScope(shield=True)  # a process that was started has to be known
        with log.open("wb") as output, scope:
            process = await anyio.open_process(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self.environment, **settings},
                start_new_session=True,  # Ctrl-C reaches us alone, and we end them in good order
            )
            self.programs.append(Program(name, process, log))
        self.tasks.start_soon(self._mind, self.programs[-1])
        return self.programs[-1]

    async def _mind(self, program: Program) -> None:
        code = await program.process.wait()
        if not program.ended_by_us:
            text = f"{program.name} ended with exit code {code}"
            self.fail(ProgramError(text, program.last_words()))

    def fail(self, error: BlackboardError) -> None:
        """Record why the act cannot go on; the first reason counts."""
        self.failure = self.failure or error
        self.pulse.beat()

    async def stop(self) -> None:
        """End all: ask first, and after the grace period do not ask."""
        left = [program for program in self.programs if program.alive]
        for program in left:
            program.ended_by_us = True
            program.thaw()
            program.process.terminate()
        with anyio.move_on_after(GRACE_S):
            await _gone(left)
        for program in left:
            if program.alive:
                program.process.kill()
        await _gone(left)


async def _gone(programs: Iterable[Program]) -> None:
    for program in programs:
        await program.process.wait()


@asynccontextmanager
async def troupe(
    logs: Path, environment: Mapping[str, str], pulse: Pulse, folder: Path | None = None
) -> AsyncGenerator[Troupe]:
    """Hold the programs of an act; however the block ends, none of them is left running.

    Args:
        logs: What they say goes into this folder.
        environment: What they are told, over what this process was told.
        pulse: Beats when one of them fails.
        folder: Where they are; None means the flock's.
    """
    await anyio.Path(logs).mkdir(parents=True, exist_ok=True)
    inherited = dict(os.environ)  # noqa: TID251 - handed on, not read
    inherited.update(environment)
    failure: BlackboardError | None = None
    async with anyio.create_task_group() as tasks:
        held = Troupe(folder or find(), logs, inherited, tasks, pulse)
        try:
            yield held
        except BlackboardError as error:
            failure = error  # raised below, where the task group does not wrap it
        finally:
            with anyio.CancelScope(shield=True):
                await held.stop()
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
