from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from blackboard import Blackboard
from tests.commands import CommandLine
from tests.embedding_stub import embedding_stub
from tests.recall_service import RecallService, current
from tests.servers import Server


@pytest.fixture
def filled(server: Server, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A board with three memories, and a service that has indexed them."""
    facts: dict[str, Any] = {}

    async def fill() -> None:
        async with Blackboard.open(server.url, agent="alice") as board:
            first = await board.put("cases.a", "the parcel was damaged", tags={"team": "blue"})
            await board.put(
                "cases.b", "a refund for the parcel", user="u1", sources=[first], priority=0.9
            )
            await board.put("tea", "green tea", happened=datetime(2026, 5, 8, tzinfo=UTC))
            facts["first"] = str(first)
            await current(board, board.log.reached)

    with embedding_stub() as stub:
        service = RecallService(server.url, tmp_path / "index", stub)
        facts["service"], facts["stub"] = service, stub
        try:
            anyio.run(fill)
            yield facts
        finally:
            service.kill()


def test_recall_shows_hits_with_their_reasons_and_sources(
    cli: CommandLine, filled: dict[str, Any]
) -> None:
    shown = cli.ok("recall", "refund for a parcel").out.splitlines()
    found = cli.json("recall", "parcel", "--tag", "team=blue", "--limit", 1)
    other = cli.json("recall", "parcel", "--source", filled["first"], "--user", "u1")
    context = cli.ok("recall", "tea", "--context", "--budget", 120, "--topic", "tea").out

    assert shown[0].startswith("m1  1.000  ")
    assert shown[0].endswith("note  a refund for the parcel")
    assert "words" in shown[1]
    assert shown[1].endswith(f"; from {filled['first']}@1")
    (hit,) = found["hits"]
    assert (hit["name"], hit["memory"]["content"]) == ("m1", "the parcel was damaged")
    assert hit["why"]
    assert found["stale"] is False
    assert [hit["memory"]["content"] for hit in other["hits"]] == ["a refund for the parcel"]
    heading, quoted = context.splitlines()[-2:]
    assert heading.startswith("[m1] agent alice, topic tea")
    assert quoted == "> green tea"


def test_query_selects_orders_pages_and_counts(cli: CommandLine, filled: dict[str, Any]) -> None:
    rows = cli.json("query", "cases.>", "--order-by", "-priority")
    page = cli.ok("query", "--limit", 2)
    counts = cli.json("query", "--limit", 0, "--count-by", "topic", "--count-by", "tag")
    then = cli.json("query", "--at", "10m")

    assert filled
    assert [row["content"] for row in rows["rows"]] == [
        "a refund for the parcel",
        "the parcel was damaged",
    ]
    cursor = page.err.split("--cursor ")[1].strip()
    rest = cli.json("query", "--limit", 2, "--cursor", cursor)
    assert [row["content"] for row in rest["rows"]] == ["the parcel was damaged"]
    assert counts["total"] == 3
    assert counts["counts"]["tag"] == {"team=blue": 1}
    assert then["rows"] == []


def test_stats_and_doctor_show_the_index(cli: CommandLine, filled: dict[str, Any]) -> None:
    index = cli.json("stats")["index"]
    checks = {check["name"]: check for check in cli.json("doctor")}

    assert filled
    assert (index["memories"], index["embedder"], index["engine"]) == (3, "bow-64", "edge")
    assert checks["index"]["state"] == "ok"
    assert "3 memories, bow-64" in cli.ok("stats").out


def test_stats_and_doctor_show_how_far_the_index_lags(
    cli: CommandLine, filled: dict[str, Any]
) -> None:
    filled["stub"].held = "dam"
    for _ in range(3):
        cli.ok("put", "dams", "a dam")
        assert filled["stub"].waiting.wait(10)

    lag = cli.json("stats")["index"]["state"]["lag"]
    shown = cli.ok("stats").out
    checks = {check["name"]: check for check in cli.json("doctor")}
    filled["stub"].release()

    assert lag == 3
    assert "3 messages behind" in shown
    assert "3 messages behind" in checks["index"]["found"]


def test_reindex_puts_a_new_index_in_the_place_of_the_old(
    cli: CommandLine, filled: dict[str, Any]
) -> None:
    done = cli.json("reindex", "--embedder", "bow-32")
    again = cli.ok("reindex")

    assert filled
    assert (done["embedder"], done["memories"]) == ("bow-32", 3)
    assert again.out.splitlines()[-1] == "3 memories are indexed with bow-32"
    assert len(cli.json("recall", "parcel")["hits"]) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["recall"], "--help"),
        (["recall", ""], "empty text"),
        (["recall", "x", "--limit", "0"], "limit=0"),
        (["recall", "x", "--since", "never"], "--since"),
        (["recall", "x", "--tag", "blue"], "NAME=VALUE"),
        (["recall", "x", "--colour", "red"], "--colour"),
        (["recall", "x", "--budget", "0", "--context"], "budget"),
        (["query", "--order-by", "colour"], "order-by"),
        (["query", "--count-by", "colour"], "count-by"),
        (["query", "a", "--topic", "b"], "two topics"),
        (["query", "--cursor", "nonsense"], "cursor"),
        (["reindex", "--embedder"], "--help"),
    ],
)
def test_what_cannot_be_meant_ends_with_code_2_and_one_line(
    cli: CommandLine, words: list[str], says: str
) -> None:
    assert cli("put", "notes", "apples").code == 0

    done = cli(*words)

    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1


def test_without_a_service_query_says_what_it_read_and_recall_what_to_run(
    cli: CommandLine,
) -> None:
    assert cli("put", "notes", "apples").code == 0

    rows = cli.ok("query", "notes")
    asked = cli("query", "--tag", "a=b")
    recalled = cli("recall", "apples")
    reindexed = cli("reindex")

    assert rows.out.strip().endswith("apples")
    assert "1 messages of the stream were read" in rows.err
    for failed in (asked, recalled, reindexed):
        assert failed.code == 1
        assert "blackboard up" in failed.err
    assert cli.json("stats")["index"] is None


def test_each_command_shows_an_example(cli: CommandLine) -> None:
    for name in ("recall", "query", "reindex"):
        assert f"blackboard {name} " in cli.ok(name, "--help").out
