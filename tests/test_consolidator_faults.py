"""Nothing is lost or doubled, wherever the consolidator, recall or the broker is killed."""

import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from blackboard import Blackboard, Ref
from tests.children import Child, children
from tests.consolidated import check, condensing, heads, settle, summaries, texts
from tests.model_stub import model_stub
from tests.recall_service import RecallService, current
from tests.servers import Server
from tests.waiting import wait_until


@pytest.fixture
async def recall(board: Blackboard, start_recall: Callable[..., RecallService]) -> RecallService:
    service = start_recall()
    await current(board)
    return service


@pytest.fixture
def start(tmp_path: Path) -> Generator[Callable[..., Child]]:
    with children(tmp_path) as begin:
        yield begin


async def filled(board: Blackboard) -> dict[Ref, str]:
    made = texts(24)
    refs = await board.put_many("pumps", made, session="s1")
    await current(board, board.log.reached)
    return dict(zip(refs, made, strict=True))


async def until_killed(
    start: Callable[..., Child], server: Server, board: str, at: int, **options: Any
) -> bool:
    """Run a consolidator that dies at a point; False when it was through before."""
    child = start("consolidating", f"{board}-{at}", url=server.url, board=board, at=at, **options)
    await wait_until(lambda: not child.running, "the consolidator has ended", timeout=30)
    if child.code_now == 0:
        assert len([line for line in child.said() if "point" in line]) < at
        return False
    assert child.code_now == -9, child.complaints()
    return True


@pytest.mark.timeout(240)
async def test_killed_at_any_point_nothing_is_lost_or_doubled(
    board: Blackboard, server: Server, recall: RecallService, start: Callable[..., Child]
) -> None:
    at, killed = 0, True
    while killed:
        at += 1
        one = board.sibling(board=f"k{at}")
        put = await filled(one)

        killed = await until_killed(start, server, one.name, at)
        await check(one, put)
        await settle(one, put)
    assert at > 8


@pytest.mark.faults
@pytest.mark.timeout(240)
async def test_killed_around_a_model_call_nothing_is_lost_or_doubled(
    board: Blackboard, server: Server, recall: RecallService, start: Callable[..., Child]
) -> None:
    with model_stub(says=condensing) as model:
        at, killed = 0, True
        while killed:
            at += 1
            one = board.sibling(board=f"m{at}")
            put = await filled(one)

            killed = await until_killed(start, server, one.name, at, model=model.url)
            await check(one, put)
            await settle(one, put)
    assert at > 14
    assert model.requests >= 6


@pytest.mark.faults
@pytest.mark.parametrize("victim", ["broker", "recall"])
@pytest.mark.timeout(240)
async def test_broker_or_recall_killed_at_any_point_nothing_is_lost_or_doubled(
    victim: str,
    board: Blackboard,
    server: Server,
    start_recall: Callable[..., RecallService],
    start: Callable[..., Child],
    tmp_path: Path,
) -> None:
    recall = start_recall()
    await current(board)
    at, through = 0, False
    while not through:
        at += 1
        one = board.sibling(board=f"b{at}")
        put = await filled(one)
        go = tmp_path / f"go-{at}"
        child = start("consolidating", f"b{at}", url=server.url, board=one.name, at=at, go=str(go))
        await child.until(
            lambda lines, at=at: any(
                line.get("point") == at or "summaries" in line for line in lines
            ),
            f"point {at}",
        )
        through = any("summaries" in line for line in child.said())
        if not through:
            if victim == "broker":
                server.kill()
                server.start()
            else:
                recall.kill()
                recall = start_recall()
            go.touch()
        await child.ended(60)

        await check(one, put)
        await settle(one, put)
    assert at > 8


async def test_two_at_once_condense_each_group_once(
    board: Blackboard, server: Server, recall: RecallService, start: Callable[..., Child]
) -> None:
    put: dict[Ref, str] = {}
    for number in range(8):
        made = texts(24)
        refs = await board.put_many("pumps", made, session=f"s{number}")
        put.update(zip(refs, made, strict=True))

    both = [
        start("consolidating", f"replica-{number}", url=server.url, board="main")
        for number in range(3)
    ]
    said = [await one.ended(50) for one in both]

    await check(board, put)
    await settle(board, put)
    made_by = [lines[-1]["summaries"] for lines in said]
    assert sum(made_by) <= len(await summaries(board))
    assert sum(one.gone == "retired" for one in (await heads(board)).values()) == len(put)
    assert sum(count > 0 for count in made_by) > 1, made_by


async def test_a_worker_that_was_stopped_and_lost_its_group_stores_nothing(
    board: Blackboard,
    server: Server,
    recall: RecallService,
    start: Callable[..., Child],
    tmp_path: Path,
) -> None:
    put = await filled(board)
    go = tmp_path / "go"
    # Its first write is the lease, the second puts a summary.
    child = start("consolidating", "slow", url=server.url, board="main", at=5, go=str(go))
    await child.until(lambda lines: any(line.get("point") == 5 for line in lines), "point 5")
    child.signal(signal.SIGSTOP)

    await settle(board, put)
    before = {one.ref: one.revision for one in await summaries(board)}
    go.touch()
    child.signal(signal.SIGCONT)
    await child.ended()

    assert {one.ref: one.revision for one in await summaries(board)} == before
    await check(board, put)
