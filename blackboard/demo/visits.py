"""Customers visit the support desk, each visit in a new process, and what happens is counted.

It is told from outside: by the replies on the board and by what the customers know they said. The
departments' programs run as they would without anyone watching.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import anyio
import msgspec

from blackboard.board import Blackboard
from blackboard.demo.customers import Customer, Script, Visit
from blackboard.demo.programs import Program, Pulse, Troupe, find, troupe
from blackboard.demo.stage import environment
from blackboard.errors import BlackboardError, TerminalError
from blackboard.messages import Memory
from blackboard.runtime.dead import list_dead
from blackboard.settings import Settings

NAME = "front-desk"
"""The name under which customers' messages come in."""
FOLDER = ("support", "billing.py")
ANSWER_S = 30.0
ANSWER_WITH_MODEL_S = 300.0
LOOK_S = 0.5
DEAD_LOOK_S = 1.0
MAX_TURNS = 20
"""A desk that still asks after so many answers asks for ever."""

Open = Callable[[str], AbstractAsyncContextManager[Blackboard]]
Name = Callable[[Script, int], str]
"""The board of a customer's visit, by number."""


class Cite(msgspec.Struct, frozen=True):
    """A note that a reply rests on, as the department shows it."""

    fact: str
    how: Literal["tag", "meaning"]
    ref: str
    agent: str
    stored: datetime
    said: str


class Reply(msgspec.Struct, frozen=True):
    """What a department says."""

    say: str
    cites: tuple[Cite, ...] = ()


@dataclass(slots=True)
class Line:
    """Something that was said, by the customer or the department; replies may rest on notes."""

    who: str
    text: str
    cites: tuple[Cite, ...] = ()
    repeated: bool = False


@dataclass(slots=True)
class Conversation:
    """One visit.

    Attributes:
        pid: The process that served it, or one of several.
        questions: Facts that the customer was asked for.
        repeated: Those of them that somebody at the desk had been told before.
        wrong: Cited notes that are another customer's, or do not tell the fact.
    """

    customer: str
    department: str
    number: int
    pid: int
    lines: list[Line] = field(default_factory=list[Line])
    questions: list[str] = field(default_factory=list[str])
    repeated: list[str] = field(default_factory=list[str])
    cites: list[Cite] = field(default_factory=list[Cite])
    wrong: list[Cite] = field(default_factory=list[Cite])


@dataclass(slots=True)
class Desk:
    """The desk of one run.

    Attributes:
        told: By message, who said it and which facts it tells.
    """

    folder: Path
    settings: Settings
    open: Open
    name: Name
    told: dict[str, tuple[str, frozenset[str]]] = field(
        default_factory=dict[str, tuple[str, frozenset[str]]]
    )

    async def run(self, scripts: Sequence[Script]) -> list[Conversation]:
        """Let all customers make their visits, round by round.

        Raises:
            BlackboardError: A program ended, or nobody answered; the text says why.
        """
        customers = [Customer(script) for script in scripts]
        held: list[Conversation] = []
        for number in range(max(len(script.visit) for script in scripts)):
            due = [customer for customer in customers if number < len(customer.script.visit)]
            held += await self._round(due, number)
        return held

    async def _round(self, customers: Iterable[Customer], number: int) -> list[Conversation]:
        """The visits of this number, at the same time, each served by a new process."""
        pulse = Pulse()
        held: dict[str, Conversation] = {}
        logs = self.folder / f"round-{number + 1}"
        async with AsyncExitStack() as stack:
            boards = {
                customer.script.user: await stack.enter_async_context(
                    self.open(self.name(customer.script, number))
                )
                for customer in customers
            }
            for board in {board.name: board for board in boards.values()}.values():
                # Nobody shall wait in front of a desk that cannot look anything up.
                await board.recall("what is known", limit=1)
            programs = await stack.enter_async_context(
                troupe(logs, environment(self.settings), pulse, find(*FOLDER))
            )

            async def visit(customer: Customer) -> None:
                board = boards[customer.script.user]
                wanted = customer.script.visit[number]
                try:
                    program = await self._start(programs, wanted.department, board.name)
                    held[customer.script.user] = await self.converse(
                        board, customer, wanted, number, program
                    )
                except BlackboardError as error:
                    programs.fail(error)

            async with anyio.create_task_group() as group:
                group.start_soon(_end_on_failure, programs, group.cancel_scope)
                for board in {board.name: board for board in boards.values()}.values():
                    group.start_soon(_mind_dead, board, programs)
                async with anyio.create_task_group() as visits:
                    for customer in customers:
                        visits.start_soon(visit, customer)
                group.cancel_scope.cancel()
            if programs.failure is not None:
                raise programs.failure
        return [held[customer.script.user] for customer in customers]

    async def _start(self, programs: Troupe, department: str, board: str) -> Program:
        return await programs.launch(
            department,
            f"{department}.py",
            {"BLACKBOARD_BOARD": board},
            "--parent",
            str(os.getpid()),
        )

    async def converse(
        self, board: Blackboard, customer: Customer, visit: Visit, number: int, program: Program
    ) -> Conversation:
        """Hold one conversation to its end.

        Raises:
            NoAnswerError: The department did not answer in time.
            TerminalError: It asked more than anyone would answer.
        """
        script = customer.script
        held = Conversation(script.name, visit.department, number, program.pid)
        asked: str | None = None
        words, tells = customer.says(visit.opening)
        for _ in range(MAX_TURNS):
            held.lines.append(Line(script.name, words))
            answer = await board.ask(
                f"support.{visit.department}",
                words,
                session=f"{script.user}-{number + 1}",
                user=script.user,
                tags={"department": visit.department, **({"replies-to": asked} if asked else {})},
                timeout=ANSWER_S if self.settings.model_url is None else ANSWER_WITH_MODEL_S,
            )
            self.told[answer.sources[0].id] = script.user, tells
            reply = _reply(answer)
            asked = answer.tags.get("asks")
            line = Line(visit.department, reply.say, reply.cites, asked in customer.told)
            held.lines.append(line)
            if asked is None:
                held.cites += reply.cites
                held.wrong += [
                    one for one in reply.cites if not await self._holds(board, one, script)
                ]
                return held
            held.questions.append(asked)
            if line.repeated:
                held.repeated.append(asked)
            words, tells = customer.answers(asked)
        raise TerminalError(f"{visit.department} still asks after {MAX_TURNS} answers: {asked!r}")

    async def _holds(self, board: Blackboard, cite: Cite, script: Script) -> bool:
        """Whether a cited note is there, is the customer's, and of words that tell the fact."""
        note = await board.get(cite.ref)
        user, tells = self.told.get(note.sources[0].id, ("", frozenset()))
        return note.user == script.user == user and cite.fact in tells


def _reply(answer: Memory) -> Reply:
    try:
        return msgspec.convert(answer.content, Reply)
    except msgspec.ValidationError as error:
        raise TerminalError(f"{answer.ref} is no reply of the desk: {error}") from error


async def _mind_dead(board: Blackboard, programs: Troupe) -> None:
    """Notice at once when a department gave up on a message, which then nobody answers."""
    try:
        while not (found := await list_dead(board)):  # noqa: ASYNC110 - nothing tells of one
            await anyio.sleep(DEAD_LOOK_S)
    except BlackboardError as error:
        programs.fail(error)
    else:
        letter = found[0].letter
        programs.fail(TerminalError(f"{letter.agent} gave up on a message: {letter.error}"))


async def _end_on_failure(programs: Troupe, scope: anyio.CancelScope) -> None:
    while programs.failure is None:
        await programs.pulse.wait(LOOK_S)
    scope.cancel()
