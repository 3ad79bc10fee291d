import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import psutil
import pytest
from rich.console import Console

from blackboard.demo import acts, calls, flock, matrix, play, programs, report, traffic
from blackboard.demo.documents import Document, Library
from blackboard.demo.matrix import Matrix, State
from blackboard.demo.screen import Screen
from blackboard.demo.stage import Stage, set_up
from blackboard.errors import BlackboardError, ModelBusyError, ModelRefusedError, SettingsError
from blackboard.jetstream import Connection
from blackboard.settings import Settings
from tests.model_stub import model_stub
from tests.servers import Server
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
QUESTIONS = {"first": "How is it raised and caught?", "second": "How is it defined and called?"}


def library(documents: int = 4) -> Library:
    """Documents of three sections, of which one is the same in all."""
    return Library(
        "test documents",
        tuple(
            Document(
                f"document-{number}",
                ".txt",
                f"How document {number} is raised\n====\n\nIt is raised by hand number {number}, "
                f"and caught by {number + 1}.\nThe second line of document {number} says more.\n\n"
                f"Called\n======\n\nDocument {number} is defined here and called there.\n\n"
                "Everywhere the same\n===================\n\nThis section is the same in all.\n",
            )
            for number in range(documents)
        ),
    )


@asynccontextmanager
async def stage(
    settings: Settings | None = None, questions: dict[str, str] = QUESTIONS
) -> AsyncGenerator[Stage]:
    async with set_up(library(), questions, settings or Settings()) as made:
        yield made


def silent() -> Screen:
    screen = Screen()
    screen.console = Console(file=io.StringIO(), width=100)
    return screen


def said(screen: Screen) -> str:
    file = screen.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


async def test_shared_reports_are_those_of_isolated_teams_at_fewer_calls() -> None:
    played, screen = acts.Played(), silent()
    async with stage() as made:
        isolated = await acts.isolated(made, screen, played)
        shared = await acts.shared(made, screen, played)

    assert played.identical() is True
    assert (shared.model_calls, shared.distinct) == (9, 9)
    assert (isolated.model_calls, isolated.distinct) == (18, 9)
    assert isolated.uses == shared.uses == 24
    assert 0 < shared.tokens < isolated.tokens
    assert shared.bytes_moved > 10_000
    assert "\x1b" not in said(screen)
    assert "second" in said(screen)


async def test_a_killed_summarizer_costs_at_most_what_it_had_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acts, "KILL_AFTER", 0.0)
    played, screen = acts.Played(), silent()
    async with stage() as made:
        figures = await acts.kill(made, screen, played)
        await acts.shared(made, screen, played)

    assert figures is not None
    assert figures.in_flight > 0
    assert figures.distinct == 9
    assert figures.model_calls <= figures.distinct + figures.in_flight
    assert figures.taken_over == figures.in_flight
    assert played.identical() is True
    assert "taken over" in said(screen)


async def test_an_edited_line_makes_its_section_and_the_reports_that_use_it_again() -> None:
    questions = {**QUESTIONS, "third": "Where?"}
    async with stage(questions=questions) as made:
        figures = await acts.edit(made, silent(), acts.Played())

    assert figures is not None
    assert (figures.sections_redone, figures.sections_retired) == (1, 0)
    assert figures.reports_redone == figures.reports == 3
    assert figures.model_calls == 1


async def test_a_program_that_ends_fails_the_act_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "reader.py").write_text("raise SystemExit('no more ink')")
    monkeypatch.setattr(flock, "ROLES", ("reader",))
    monkeypatch.setattr(programs, "find", lambda: tmp_path)
    async with stage() as made:
        with pytest.raises(programs.ProgramError, match="exit code 1: no more ink"):
            await acts.shared(made, silent(), acts.Played())


async def test_a_flock_that_stands_still_is_given_up_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flock, "STALL_LIMIT_S", 1.0)
    boards = {"first": "stalled"}
    async with stage() as made:
        with pytest.raises(flock.StalledError, match="waiting for the reports of first"):
            async with flock.flock(made, silent(), "stalled", boards) as run:
                await run.until_reports()


async def test_documents_without_a_section_leave_out_what_cannot_be_shown() -> None:
    screen = silent()
    empty = Library("empty", (Document("empty", ".md", "# Title\n"),))
    async with set_up(empty, QUESTIONS, Settings()) as made:
        assert await acts.kill(made, screen, acts.Played()) is None
        assert await acts.edit(made, screen, acts.Played()) is None

    assert said(screen).count("this act is left out") == 2


async def test_a_model_that_does_nothing_but_fail_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flock, "FAILING_LIMIT_S", 1.0)
    with model_stub(lambda _number: 500) as stub:
        async with stage(Settings(model_url=stub.url)) as made:
            with pytest.raises(ModelBusyError, match="500"):
                await acts.shared(made, silent(), acts.Played())


async def test_a_model_that_refuses_ends_the_act_at_once() -> None:
    with model_stub(lambda _number: 401) as stub:
        settings = Settings(model_url=stub.url, model_key="wrong")
        async with stage(settings) as made:
            with pytest.raises(ModelRefusedError, match="401"):
                await acts.shared(made, silent(), acts.Played())


async def test_retries_at_the_model_are_calls() -> None:
    with model_stub(lambda number: 503 if number in {2, 3} else 200) as stub:
        settings = Settings(model_url=stub.url, model_key="key")
        async with stage(settings) as made:
            figures = await acts.shared(made, silent(), acts.Played())

        assert figures.model_calls == stub.requests == 11
        assert figures.distinct == len(stub.seen) == 9
        assert figures.tokens == 9 * 110


def test_with_an_endpoint_each_pair_of_section_and_prompt_is_asked_for_once() -> None:
    with model_stub() as stub:
        ended = subprocess.run(
            [sys.executable, "-m", "blackboard", "demo", "--act", "shared", "--json"],
            cwd=ROOT,
            env={**os.environ, "OPENAI_BASE_URL": stub.url, "OPENAI_API_KEY": "key"},
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )

        assert ended.returncode == 0, ended.stderr
        shown: dict[str, Any] = json.loads(ended.stdout)
        assert set(stub.seen.values()) == {1}
        assert len(stub.seen) > 100
        assert shown["shared"]["model_calls"] == shown["shared"]["distinct"] == stub.requests
        assert shown["shared"]["tokens"] == 110 * stub.requests
        assert shown["reports_identical"] is None
        assert shown["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_interrupted_demo_leaves_no_process_behind(number: int, tmp_path: Path) -> None:
    library().write(tmp_path / "documents")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "blackboard", "demo", str(tmp_path / "documents")]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - its signals and exit code are the test
            [*command, "--act", "kill"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    started: list[psutil.Process] = []

    def find() -> int:
        started[:] = [
            other
            for other in psutil.process_iter()
            if str(tmp_path) in " ".join(_environment_of(other)) and other.pid != process.pid
        ]
        return len(started) >= 18

    await wait_until(find, "the programs run", 30)
    process.send_signal(number)

    await wait_until(lambda: process.poll() is not None, "the demo ends", 20)
    expected = -signal.SIGKILL if number == signal.SIGKILL else 130
    assert process.returncode == expected, (tmp_path / "output").read_text()
    await wait_until(
        lambda: not [one for one in started if one.is_running()], "every process is gone", 10
    )
    left = [path async for path in anyio.Path(tmp_path).glob("blackboard-demo-*")]
    assert number == signal.SIGKILL or left == []


def _environment_of(process: psutil.Process) -> list[str]:
    try:
        return [f"{name}={value}" for name, value in process.environ().items()]
    except psutil.Error:
        return []


async def test_paths_and_acts_that_cannot_be_used_are_refused_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        await play.demo([Path("nowhere")])
    with pytest.raises(SettingsError, match="no act 'encore'"):
        await play.demo(acts=["encore"])  # pyright: ignore[reportArgumentType]


async def test_bytes_are_those_of_the_connections_of_others(server: Server) -> None:
    before = traffic.newest(await traffic.connections(server.monitor))
    async with (
        Connection.open(server.url, name="demo@board") as own,
        Connection.open(server.url, name="agent@board") as other,
    ):
        await own.client.publish("a", b"x" * 1000)
        await own.client.flush()
        await other.client.publish("a", b"x" * 100)
        await other.client.flush()
        found = await traffic.connections(server.monitor)
    closed = await traffic.connections(server.monitor)

    assert traffic.moved(found, after=before, without="demo") == 100
    assert traffic.moved(closed, after=before, without="demo") == 100
    assert traffic.moved(closed, after=before, without="agent") == 1000
    assert traffic.moved(closed, after=traffic.newest(closed), without="demo") == 0


def line(call: str, event: str, **more: Any) -> bytes:
    fields = {"pid": 1, "team": "a", "prompt": "p", "section": call, **more}
    return json.dumps({"call": call, "event": event, **fields}).encode() + b"\n"


def test_a_call_counts_when_it_is_made_and_is_open_until_it_is_answered(tmp_path: Path) -> None:
    log = calls.Calls(tmp_path / "calls")
    log.look()
    with log.file.open("ab") as file:
        file.write(line("1", "made") + line("2", "made", section="1") + line("3", "made", pid=2))
        file.write(line("1", "answered", tokens=7) + line("2", "failed", error="busy")[:-5])
        file.flush()

        log.look()
        assert log.count() == calls.Count(made=3, distinct=2, tokens=7)
        assert [one.call for one in log.open([1])] == ["2"]
        assert [one.call for one in log.open([1, 2])] == ["2", "3"]
        file.write(line("2", "failed", error="busy")[-5:])
    log.look()

    assert [one.call for one in log.open([1])] == []
    assert (log.failing(), log.refused(), log.answered) == ("busy", None, 1)


def test_the_matrix_shows_who_paid_who_reused_and_who_took_over() -> None:
    shown = Matrix.of(["a", "b"])
    shown.plan("a", [("1", "x"), ("2", "y"), ("3", "z")])
    shown.interrupted.add("z")
    shown.serve("a", "1", "x", made=True)
    shown.serve("a", "2", "y", made=False)
    shown.serve("a", "3", "z", made=True)
    shown.serve("b", "9", "x", made=True)

    assert [cell.state for cell in shown.rows["a"].values()] == [
        State.PAID,
        State.REUSED,
        State.TAKEN_OVER,
    ]
    assert not shown.waiting("a")
    assert shown.waiting("b")


def test_a_changed_section_waits_again_and_the_others_stay_served() -> None:
    shown = Matrix.of(["a"])
    shown.plan("a", [("1", "x"), ("2", "y")])
    shown.serve("a", "1", "x", made=True)
    shown.serve("a", "2", "y", made=True)
    shown.plan("a", [("1", "x"), ("2", "changed")])
    shown.serve("a", "2", "y", made=True)

    assert shown.counts() == {State.PAID: 1, State.WAITING: 1}


def test_after_a_rest_only_what_changes_is_shown_as_work() -> None:
    shown = Matrix.of(["a"])
    shown.plan("a", [("1", "x"), ("2", "y")])
    shown.serve("a", "1", "x", made=True)
    shown.rest()
    shown.serve("a", "2", "y", made=False)

    assert shown.counts() == {State.KEPT: 1, State.REUSED: 1}


def test_the_picture_needs_neither_colours_nor_unicode() -> None:
    shown = Matrix.of(["team"])
    shown.plan("team", [(str(number), "x") for number in range(100)])
    shown.serve("team", "0", "x", made=True)
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=file, width=60)
    console.print(matrix.draw(shown, console))
    file.flush()
    text = file.buffer.getvalue().decode()

    assert "#..." in text
    assert "1/100" in text
    assert max(map(len, text.splitlines())) <= 60
    assert "\x1b" not in text


def test_the_json_has_the_acts_that_were_played_and_no_others() -> None:
    figures = report.Figures(
        model_calls=1, distinct=1, uses=2, reuse_rate=0.5, tokens=3, bytes_moved=4, seconds=5.0
    )
    text = report.as_json(
        report.Results(shared=figures), reports_identical=None, model="extractive", machine="here"
    )

    assert json.loads(text) == {
        "shared": msgspec.to_builtins(figures),
        "reports_identical": None,
        "model": "extractive",
        "machine": "here",
    }


def test_broken_promises_are_named() -> None:
    one = report.Figures(
        model_calls=3, distinct=2, uses=4, reuse_rate=0.5, tokens=3, bytes_moved=4, seconds=5.0
    )
    killed = report.KillFigures(
        **msgspec.structs.asdict(one), in_flight=1, taken_over=1, seconds_to_take_over=1, pace_s=0.1
    )
    results = report.Results(shared=one, kill=killed)

    assert len(report.faults(results, reports_identical=False, exact=True)) == 2
    assert report.faults(results, reports_identical=None, exact=False) == []


def test_errors_of_the_demo_are_errors_of_the_library() -> None:
    assert issubclass(programs.ProgramError, BlackboardError)
    assert issubclass(flock.StalledError, BlackboardError)


async def test_waiting_for_a_pulse_ends_with_the_time_or_the_beat() -> None:
    pulse = programs.Pulse()
    with anyio.fail_after(5):
        await pulse.wait(0.01)
        pulse.beat()
        await pulse.wait(60)
