"""`once` by callers in many processes: one result is stored per key, whatever becomes of them."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import MakeFailedError
from tests.children import Child, children
from tests.programs.kill_proxy import open_wire
from tests.programs.once_caller import NAME
from tests.servers import Server
from tests.waiting import wait_until

KEYS = list(range(20))
LEASE_S = 1.0

Say = list[dict[str, Any]]
Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with children(tmp_path) as start:
        yield start


def caller(start: Start, server: Server, number: int, **options: Any) -> Child:
    """A process with 25 of the 200 callers, ten for each of the 20 keys.

    Those for the keys in `first` begin at once, the others when there is a memory at `go`.
    """
    told: dict[str, Any] = {"first": [], "work_s": 0.2, "longer_s": 0.0, "lease_s": LEASE_S}
    told |= {"first_s": 0.2, "stalled": False, **options}
    then = [(25 * number + call) % 20 for call in range(25)]
    for key in told["first"]:
        then.remove(key)
    agent = f"agent-{number % 4}"
    return start("once_caller", f"caller-{number}", url=server.url, agent=agent, then=then, **told)


async def go(server: Server) -> None:
    async with Blackboard.open(server.url) as board:
        await board.put("go", None)


def begins(processes: list[Child]) -> Counter[int]:
    """How often `make` began, by key."""
    return Counter(
        line["begins"] for child in processes for line in child.said() if "begins" in line
    )


def holds(leases: int) -> Callable[[Say], bool]:
    return lambda said: sum("begins" in line for line in said) == leases


def served(processes: list[Child]) -> int:
    return sum("served" in line for child in processes for line in child.said())


async def history(board: Blackboard, pattern: str) -> list[Memory]:
    """Every revision the stream ever took and still has."""
    info = await board.session.connection.stream(board.log.stream)
    assert info is not None
    async with board.replay(pattern) as memories:
        return [memory async for memory in memories]


async def check(server: Server, ended: dict[str, Say], killed: dict[str, Say]) -> None:
    """One stored result per key, and everybody who lived was served with it."""
    async with Blackboard.open(server.url, create=False) as board:
        results = await history(board, f"once.{NAME}.>")
        light = await history(board, "stories")
    stored = {memory.content["key"]: memory.content for memory in results}
    assert sorted(memory.content["key"] for memory in results) == KEYS
    assert len({memory.id for memory in results}) == len(KEYS)
    assert all(memory.gone is None and memory.kind == "result" for memory in results)

    for name, said in ended.items():
        served = [line for line in said if "served" in line]
        assert len(served) == 25, name
        assert all(line["content"] == stored[line["served"]] for line in served)
    every = [line for said in (*ended.values(), *killed.values()) for line in said]
    kinds = Counter((line["served"], line["kind"]) for line in every if "served" in line)
    assert all(kinds[key, "result"] <= 1 for key in KEYS)

    shown = Counter((memory.content["key"], memory.kind) for memory in light)
    assert all(shown[key, "result"] <= 1 for key in KEYS)
    assert all(shown[pair] >= count for pair, count in kinds.items())
    if not killed and not any("again" in line for line in every):
        assert shown == kinds
        assert sum(shown.values()) == 200
        assert sum(count for (_, kind), count in shown.items() if kind == "result") == len(KEYS)


async def test_200_callers_in_8_processes_store_20_results_and_make_each_once(
    server: Server, start: Start
):
    processes = [caller(start, server, number, lease_s=10.0) for number in range(8)]
    await go(server)
    ended = {child.name: await child.ended() for child in processes}

    await check(server, ended, {})
    assert begins(processes) == Counter(KEYS)


async def test_holders_that_are_killed_stopped_and_stalled_leave_one_result_per_key(
    server: Server, start: Start
):
    killed = [caller(start, server, n, first=[2 * n, 2 * n + 1], first_s=60) for n in (0, 1)]
    stopped = [caller(start, server, n, first=[2 * n, 2 * n + 1], first_s=2) for n in (2, 3)]
    for child in (*killed, *stopped):
        await child.until(holds(2), "holds two leases")
    for child in stopped:
        child.signal(signal.SIGSTOP)
    # These block their whole process, so that they cannot renew the lease they hold.
    stalled = [
        caller(start, server, n, first=[2 * n], first_s=2.5 * LEASE_S, stalled=True) for n in (4, 5)
    ]
    for child in stalled:
        await child.until(holds(1), "holds a lease")
    others = [caller(start, server, n) for n in (6, 7)]
    await go(server)
    for child in killed:
        child.kill()
    ended = {child.name: await child.ended() for child in (*stalled, *others)}
    for child in stopped:
        child.signal(signal.SIGCONT)
        ended[child.name] = await child.ended()

    await check(server, ended, {child.name: child.said() for child in killed})
    begun = begins([*killed, *stopped, *stalled, *others])
    assert all(begun[key] >= 2 for key in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10)), "all were taken over"


async def test_a_broker_killed_under_200_callers_leaves_one_result_per_key(
    server: Server, start: Start
):
    processes = [caller(start, server, n, work_s=0.4, longer_s=0.1) for n in range(8)]
    for child in processes:
        await child.until(lambda said: said, "is ready")
    await go(server)
    for least in (1, 60, 120):
        await wait_until(
            lambda least=least: served(processes) >= least, f"{least} are served", timeout=30
        )
        server.kill()
        await anyio.to_thread.run_sync(server.start)
    ended = {child.name: await child.ended() for child in processes}

    await check(server, ended, {})


async def test_a_holder_stalled_between_its_last_look_and_its_store_is_fenced_off(server: Server):
    served: list[Memory] = []
    async with (
        open_wire(server.url) as wire,
        Blackboard.open(wire.url, agent="slow") as slow,
        Blackboard.open(server.url, agent="quick") as quick,
        anyio.create_task_group() as group,
    ):

        async def call(board: Blackboard) -> None:
            served.append(await board.once(NAME, 1, lambda: board.agent, lease=LEASE_S))

        wire.hold_request(b"HPUB mem.")
        group.start_soon(call, slow)
        await wire.seen.wait()
        await call(quick)
        wire.release()
        await wait_until(lambda: len(served) == 2, "both are served")
        results = await history(quick, f"once.{NAME}.>")

        assert [memory.content for memory in results] == ["quick"]
        assert [memory.content for memory in served] == ["quick", "quick"]


async def test_an_error_of_make_reaches_those_who_wait_and_a_later_call_succeeds(server: Server):
    async with (
        open_wire(server.url) as wire,
        Blackboard.open(server.url, agent="maker") as maker,
        Blackboard.open(wire.url, agent="waiter") as waiter,
        anyio.create_task_group() as group,
    ):
        begun, fail = anyio.Event(), anyio.Event()
        errors: list[Exception] = []

        async def make() -> str:
            begun.set()
            await fail.wait()
            raise LookupError("no such page")

        async def call(board: Blackboard) -> None:
            try:
                await board.once(NAME, "page", make)
            except (LookupError, MakeFailedError) as error:
                errors.append(error)

        group.start_soon(call, maker)
        await begun.wait()
        group.start_soon(call, maker)
        wire.look_for(b"claim.")
        group.start_soon(call, waiter)
        await wire.seen.wait()  # it asks for the lease …
        for board in (maker, waiter):
            # … and has found it held: what is asked for later is answered later.
            await board.log.head(Ref("*", "t", "k"))
        await anyio.wait_all_tasks_blocked()
        fail.set()
        await wait_until(lambda: len(errors) == 3, "all three have got the error")

        assert sorted(type(error).__name__ for error in errors) == [
            "LookupError",
            "MakeFailedError",
            "MakeFailedError",
        ]
        assert all("no such page" in str(error) for error in errors)
        assert (await waiter.once(NAME, "page", lambda: "found")).content == "found"
        assert (await maker.once(NAME, "page", make)).content == "found"


async def test_a_result_older_than_max_age_is_made_anew_and_once(server: Server):
    async with (
        Blackboard.open(server.url, agent="one") as one,
        Blackboard.open(server.url, agent="two") as two,
    ):
        made = 0
        served: list[object] = []

        async def call(board: Blackboard, max_age: timedelta) -> None:
            async def make() -> int:
                nonlocal made
                made += 1
                return made

            served.append((await board.once(NAME, "news", make, max_age=max_age)).content)

        await call(one, timedelta(minutes=1))
        await call(two, timedelta(minutes=1))
        first = await one.get((await history(one, f"once.{NAME}.>"))[0].ref)
        old = timedelta(seconds=1)
        await wait_until(lambda: age(first) > old, "the result is old")
        # Well within the lease of 10 s: the one that was released does not come back.
        with anyio.fail_after(4):
            async with anyio.create_task_group() as group:
                group.start_soon(call, one, old)
                group.start_soon(call, two, old)
        results = await history(one, f"once.{NAME}.>")

    assert served == [1, 1, 2, 2]
    assert [memory.content for memory in results] == [1, 2]


async def test_who_waits_for_a_call_that_is_cancelled_makes_the_result_at_once(server: Server):
    async with (
        open_wire(server.url) as wire,
        Blackboard.open(server.url, agent="maker") as maker,
        Blackboard.open(wire.url, agent="waiter") as waiter,
    ):
        served: list[object] = []

        async def wait() -> None:
            served.append((await waiter.once(NAME, "page", lambda: "made")).content)

        async with anyio.create_task_group() as group:
            begun = anyio.Event()

            async def make() -> None:
                begun.set()
                await anyio.sleep_forever()

            async with anyio.create_task_group() as call:
                call.start_soon(maker.once, NAME, "page", make)
                await begun.wait()
                wire.look_for(b"claim.")
                group.start_soon(wait)
                await wire.seen.wait()  # it asks for the lease, and finds it held
                call.cancel_scope.cancel()
            with anyio.fail_after(4):
                await wait_until(lambda: served, "the waiter is served")

    assert served == ["made"]


def age(memory: Memory) -> timedelta:
    assert memory.stored is not None
    return datetime.now(UTC) - memory.stored
