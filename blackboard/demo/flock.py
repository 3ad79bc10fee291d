"""One run of the flock: its boards, its programs, and what is seen of it from outside.

What the run did is learnt from the board and from the log at the model's door, never from the
programs: they run as they would without anyone watching.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import anyio

from blackboard.board import Blackboard
from blackboard.demo.calls import Calls
from blackboard.demo.matrix import Matrix
from blackboard.demo.programs import ROLES, Program, ProgramError, Pulse, Troupe, troupe
from blackboard.demo.report import Figures
from blackboard.demo.screen import Screen
from blackboard.demo.stage import NAME, Stage
from blackboard.demo.teams import DOCUMENTS_READ
from blackboard.demo.traffic import connections, moved, newest
from blackboard.errors import BlackboardError, ModelBusyError, ModelRefusedError
from blackboard.messages import Memory
from blackboard.runtime.presence import list_cards

START_LIMIT_S = 60.0
STALL_LIMIT_S = 60.0
STALL_LIMIT_WITH_MODEL_S = 300.0
FAILING_LIMIT_S = 60.0
"""How long a model may do nothing but fail."""
PRESENT_S = 0.2
LOOK_S = 0.1
"""How often the picture is drawn and the door's log is read, at least."""


class StalledError(ProgramError):
    """The flock made no progress within the limit; the text says what it was waiting for."""


@dataclass(slots=True)
class Team:
    """What is known of one team.

    Attributes:
        board: The board that the team is bound to.
        asked: Revision of its question.
        asked_at: When the question was stored, by the broker's clock.
        outline: Newest outline: the sections that its report needs.
        receipt: The reader's newest word on what it put.
        report: The newest report.
    """

    board: Blackboard
    asked: int = 0
    asked_at: datetime | None = None
    outline: Memory | None = None
    receipt: Memory | None = None
    report: Memory | None = None

    @property
    def is_done(self) -> bool:
        """Whether the report is of the newest outline, and the outline of the question."""
        return (
            self.receipt is not None
            and self.receipt.revision > self.asked
            and self.outline is not None
            and self.report is not None
            and self.report.revision > self.outline.revision
        )


@dataclass(slots=True)
class Flock:
    """The running flock of one act.

    Attributes:
        name: Of the act.
        teams: By name.
        matrix: What became of each section of each team.
        calls: The log at the model's door.
        events: Sections, receipts, outlines, summaries and reports, as they came.
    """

    name: str
    stage: Stage
    screen: Screen
    teams: dict[str, Team]
    troupe: Troupe
    matrix: Matrix
    calls: Calls
    pulse: Pulse
    pace_s: float
    first_connection: int
    events: list[Memory] = field(default_factory=list[Memory])

    async def start(self) -> None:
        """Start the programs and wait until they are there."""
        for board in {team.board.name: team.board for team in self.teams.values()}.values():
            self.troupe.tasks.start_soon(self.hear, board)
        for team in self.teams:
            for role in ROLES:
                await self._start(team, role)
        await self.until_present()

    async def _start(self, name: str, role: str) -> Program:
        settings = {
            "BLACKBOARD_BOARD": self.teams[name].board.name,
            "FLOCK_DOOR": str(self.calls.file),
            "FLOCK_PACE": str(self.pace_s),
        }
        return await self.troupe.start(name, role, settings)

    async def until_present(self) -> None:
        """Wait until every program has shown its card, so that the run is not a race of starts.

        Raises:
            ProgramError: A program ended.
            StalledError: Some did not report in within a minute.
        """
        boards = {team.board.name: team.board for team in self.teams.values()}
        deadline = anyio.current_time() + START_LIMIT_S
        while True:
            self._check()
            cards = [card for board in boards.values() for card in await list_cards(board.log)]
            present = {card.pid for card in cards}
            missing = [one.name for one in self.troupe.programs if one.pid not in present]
            if not missing:
                return
            if anyio.current_time() > deadline:
                text = f"not running after {START_LIMIT_S:g} s: {', '.join(missing)}"
                raise StalledError(text, self._said())
            await self.pulse.wait(PRESENT_S)

    async def ask(self, folder: Path) -> None:
        """Ask every team its question about the documents in a folder."""
        for name, team in self.teams.items():
            content = {
                "question": self.stage.questions[name],
                "folder": str(folder),
                "documents": DOCUMENTS_READ,
            }
            ref = await team.board.put(
                f"docs.question.{name}", content, key="question", kind="question", session=name
            )
            question = await team.board.get(ref)
            team.asked, team.asked_at = question.revision, question.stored

    async def until(self, done: Callable[[], bool], what: Callable[[], str]) -> None:
        """Wait for something, drawing the picture meanwhile.

        Args:
            done: Asked again whenever something happened.
            what: Says what is still waited for, when it takes too long.

        Raises:
            ProgramError: A program ended.
            ModelRefusedError: The endpoint refused, so that waiting is no use.
            ModelBusyError: The endpoint did nothing but fail for a minute.
            StalledError: Nothing at all happened within the limit.
        """
        since, seen = anyio.current_time(), self._progress()
        while True:
            self.calls.look()
            if self._progress() != seen:
                since, seen = anyio.current_time(), self._progress()
            self._check()
            self.screen.refresh()
            if done():
                return
            self._check_stall(anyio.current_time() - since, what)
            await self.pulse.wait(LOOK_S)

    def _progress(self) -> tuple[int, int]:
        return len(self.events), self.calls.answered

    def _check_stall(self, idle_s: float, what: Callable[[], str]) -> None:
        error = self.calls.failing()
        if error is not None and idle_s > FAILING_LIMIT_S:
            raise ModelBusyError(f"no answer from the model for {FAILING_LIMIT_S:g} s: {error}")
        limit_s = STALL_LIMIT_WITH_MODEL_S if self.stage.has_endpoint else STALL_LIMIT_S
        if idle_s > limit_s:
            raise StalledError(f"nothing happened for {limit_s:g} s, {what()}", self._said())

    @property
    def is_done(self) -> bool:
        """Whether every team has the report of its newest question."""
        return all(team.is_done for team in self.teams.values())

    async def until_reports(self) -> None:
        """Wait until every team has the report of its newest question."""
        await self.until(
            lambda: self.is_done,
            lambda: f"waiting for the reports of {', '.join(self._late())}",
        )

    async def replace(self, program: Program) -> Program:
        """Start another process in the place of one that is gone."""
        team, role = program.name.rsplit("-", 1)
        return await self._start(team, role)

    def reports(self) -> dict[str, str]:
        """The newest report of each team."""
        return {name: str(team.report.content) for name, team in self.teams.items() if team.report}

    def seconds(self) -> float:
        """From the first question to the last report, by the broker's clock."""
        asked = [team.asked_at for team in self.teams.values() if team.asked_at]
        written = [
            team.report.stored for team in self.teams.values() if team.report and team.report.stored
        ]
        return round((max(written) - min(asked)).total_seconds(), 3)

    async def figures(self) -> Figures:
        """What the run took so far."""
        self.calls.look()
        count = self.calls.count()
        uses = sum(len(cells) for cells in self.matrix.rows.values())
        found = await connections(self.stage.monitor)
        return Figures(
            model_calls=count.made,
            distinct=count.distinct,
            uses=uses,
            reuse_rate=round(1 - count.made / uses, 4) if uses else 0.0,
            tokens=count.tokens,
            bytes_moved=moved(found, after=self.first_connection, without=NAME),
            seconds=self.seconds(),
        )

    async def hear(self, board: Blackboard) -> None:
        """Follow a board and note what happens there, until cancelled."""
        try:
            async with board.watch("docs.>", since="start") as memories:
                async for memory in memories:
                    if memory.gone is None:
                        self._note(memory)
                    self.events.append(memory)
                    self.pulse.beat()
        except BlackboardError as error:
            self.troupe.fail(error)

    def _note(self, memory: Memory) -> None:
        _, kind, name = memory.topic.split(".", 2)
        team = self.teams.get(name)
        if team is None:
            return
        match kind, memory.kind:
            case "summary", "outline":
                team.outline = memory
                rows = cast("list[dict[str, Any]]", memory.content["sections"])
                self.matrix.plan(name, [(str(row["key"]), str(row["digest"])) for row in rows])
            case "summary", how:
                section, digest = memory.tags.get("section", ""), memory.tags.get("digest", "")
                self.matrix.serve(name, section, digest, made=how == "result")
            case "read", _:
                team.receipt = memory
            case "report", _:
                team.report = memory
            case _:
                pass

    def _check(self) -> None:
        if self.troupe.failure is not None:
            raise self.troupe.failure
        refused = self.calls.refused()
        if refused is not None:
            raise ModelRefusedError(refused)

    def _late(self) -> list[str]:
        return [name for name, team in self.teams.items() if not team.is_done]

    def _said(self) -> str:
        said = [(program.name, program.last_words()) for program in self.troupe.programs]
        return "\n".join([f"{name}: {words}" for name, words in said if words][:3])


@asynccontextmanager
async def flock(
    stage: Stage, screen: Screen, name: str, boards: Mapping[str, str], *, pace_s: float = 0.0
) -> AsyncGenerator[Flock]:
    """Start the flock: a reader, a summarizer and a merger for each team, bound to its board.

    Isolated and shared runs differ in `boards` and in nothing else.

    Args:
        stage: Where it runs.
        screen: Where it is shown.
        name: Of the act.
        boards: For each team the name of its board; they are made fresh.
        pace_s: What each model call takes at least.

    Raises:
        StalledError: The programs did not report in within the limit.
        ProgramError: One of them ended.
    """
    folder, pulse = stage.documents.parent / name, Pulse()
    async with AsyncExitStack() as stack:
        opened = {
            board: await stack.enter_async_context(stage.open(board))
            for board in sorted(set(boards.values()))
        }
        found = await connections(stage.monitor)
        run = Flock(
            name=name,
            stage=stage,
            screen=screen,
            teams={team: Team(opened[board]) for team, board in boards.items()},
            troupe=await stack.enter_async_context(troupe(folder, stage.environment, pulse)),
            matrix=Matrix.of(boards),
            calls=Calls(folder / "calls.jsonl"),
            pulse=pulse,
            pace_s=pace_s,
            first_connection=newest(found),
        )
        await run.start()
        yield run
