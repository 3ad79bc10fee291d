from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from blackboard import Blackboard
from tests.commands import CommandLine
from tests.consolidated import texts
from tests.embedding_stub import embedding_stub
from tests.recall_service import RecallService, current
from tests.servers import Server

POLICY = """
[[policy]]
topic = "pumps"
older_than = "0s"
count = 10
"""


@pytest.fixture
def filled(server: Server, tmp_path: Path) -> Iterator[None]:
    """A board with a group of thirty memories, and a service that has indexed them."""

    async def fill() -> None:
        async with Blackboard.open(server.url, agent="alice") as board:
            await board.put_many("pumps", texts(30), session="s1")
            await board.put_many("others", texts(30), session="s1")
            await current(board, board.log.reached)

    with embedding_stub() as stub:
        service = RecallService(server.url, tmp_path / "index", stub)
        try:
            anyio.run(fill)
            yield
        finally:
            service.kill()


@pytest.mark.usefixtures("filled")
def test_what_is_due_is_planned_condensed_counted_explained_and_undone(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = cli.ok("consolidate", "--dry-run").out
    assert idle.startswith("nothing is due\n")
    assert "service: no consolidator runs" in idle
    path = tmp_path / "policies.toml"
    path.write_text(POLICY)
    monkeypatch.setenv("BLACKBOARD_CONSOLIDATE", str(path))

    (planned,) = cli.json("consolidate", "--dry-run")["due"]
    shown = cli.ok("consolidate", "--dry-run").out
    done = cli.json("consolidate")
    stats = cli.json("stats")
    summary = cli.json("query", "pumps", "--kind", "summary")["rows"][0]
    ref = f"{summary['agent']}/{summary['topic']}/{summary['id']}"
    explained = cli.ok("explain", ref).out
    counted = cli.ok("stats").out
    back = cli.json("consolidate", "undo", ref)
    again = cli("consolidate", "undo", ref)

    assert (planned["topic"], planned["memories"], planned["why"]) == ("pumps", 30, "count")
    assert planned["left"] < planned["tokens"] / 3
    assert (planned["sources"], planned["model_tokens"]) == ("retired", 0)
    assert "no model: sentences are picked" in shown
    assert done["done"]["condensed"] == done["done"]["retired"] == 30
    assert done["waits"] == []
    assert stats["condensed"]["memories"] == 30
    assert stats["condensed"]["tokens"] < stats["condensed"]["tokens_before"] / 3
    assert "30 memories into" in counted
    assert explained.count("(retired) by alice") == len(summary["sources"])
    assert back["back"] == len(summary["sources"])
    assert again.code == 1
    assert "is gone" in again.err


@pytest.mark.usefixtures("filled")
def test_now_condenses_whatever_its_age(cli: CommandLine) -> None:
    shown = cli.ok("consolidate", "--now").out

    assert "of 60 memories" in shown
    assert "none: picked sentences" in shown


def test_what_waits_is_said(cli: CommandLine, server: Server) -> None:
    async def fill() -> None:
        async with Blackboard.open(server.url, agent="alice") as board:
            await board.put_many("pumps", texts(30), session="s1")

    anyio.run(fill)

    done = cli("consolidate", "--now")

    assert done.code == 0
    assert "waits: pumps (session s1) waits for recall" in done.err


def test_a_file_that_is_not_there_is_named(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLACKBOARD_CONSOLIDATE", "nowhere.toml")

    done = cli("consolidate", "--dry-run")

    assert done.code == 2
    assert "nowhere.toml" in done.err
