"""Writes and reads without a pause, whatever happens, and keeps its history, until SIGTERM.

Every value is unique, and whatever follows a revision carries the number of that revision in its
content, so that the board alone shows whether compare-and-set held.
"""

import itertools
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from blackboard import Blackboard, Memory, Ref
from tests.children import tell, told
from tests.faults.history import Recorder

BATCH = 20
REGISTERS = 3
GROUP = 3
PAUSE_S = 0.06
BLIND_S = 0.1


class Writer:
    """What this process does.

    Args:
        board: Where to.
        name: Of this process; unique in the run.
        seed: Decides everything it does.
        planted: Which bug to have: `early` acknowledges before storing, `blind` sets without
            comparing; empty for none.
    """

    def __init__(self, board: Blackboard, name: str, seed: str, planted: str) -> None:
        self.board = board
        self.name = name
        self.planted = planted
        self.dice = random.Random(seed)
        self.stopping = False
        self._record = Recorder().call
        self._values = itertools.count()
        self._groups = itertools.count()
        self._mine: Ref | None = None
        send, self._behind = anyio.create_memory_object_stream[str](10_000)
        self._later = send.send_nowait

    async def all(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._on_signal)
            group.start_soon(self._write_behind)
            async with anyio.create_task_group() as work:
                for act in (
                    self._new,
                    self._many,
                    self._own,
                    self._register,
                    self._count,
                    self._read,
                    self._input,
                    self._group,
                ):
                    work.start_soon(self._again, act)
            group.cancel_scope.cancel()

    async def _on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            tell(ready=True)  # from now on it can be told to end
            async for _ in signals:
                self.stopping = True

    async def _again(self, act: Callable[[], Awaitable[None]]) -> None:
        while not self.stopping:
            await act()
            await anyio.sleep(self.dice.uniform(0, 2 * PAUSE_S))

    def _value(self) -> str:
        return f"{self.name}-{next(self._values)}"

    async def _put(self, topic: str, content: dict[str, Any], **fields: Any) -> Ref | None:
        return await self._record(
            "put",
            lambda: self.board.put(topic, content, **fields),
            lambda ref: {"revisions": [ref.written], "ref": str(ref.unpinned)},
            values=[content["v"]],
        )

    # New memories

    async def _new(self) -> None:
        value = self._value()
        if self.planted == "early":
            await self._record("put", lambda: self._queue(value), lambda _: {}, values=[value])
            return
        ref = await self._put("load.new", {"v": value})
        if ref is not None and self.dice.random() < 0.3:
            await self._get(str(ref.unpinned))

    async def _queue(self, value: str) -> None:
        self._later(value)

    async def _write_behind(self) -> None:
        async for value in self._behind:
            await self.board.put("load.new", {"v": value})

    async def _many(self) -> None:
        values = [self._value() for _ in range(self.dice.randint(2, BATCH))]
        await self._record(
            "put_many",
            lambda: self.board.put_many("load.many", [{"v": value} for value in values]),
            lambda refs: {"revisions": [ref.written for ref in refs]},
            values=values,
        )

    async def _input(self) -> None:
        await self._put("in.x", {"v": self._value()})

    async def _group(self) -> None:
        session = f"{self.name}-{next(self._groups)}"
        for _ in range(GROUP):
            await self._put("parts.x", {"v": self._value()}, session=session)

    # Revisions, by compare and set

    async def _own(self) -> None:
        """A memory that only this process revises: a conflict would be a false one."""
        if self._mine is None:
            self._mine = await self._put("load.own", {"v": self._value(), "base": 0})
            return
        ref = str(self._mine.unpinned)
        await self._set(ref, await self._get(ref))

    async def _register(self) -> None:
        """Shared with all writers; whoever read last and is first sets it."""
        key = f"r{self.dice.randrange(REGISTERS)}"
        ref = f"*/load.register/{key}"
        base = await self._get(ref)
        if base is None:
            content = {"v": self._value(), "base": 0}
            await self._record(
                "put",
                lambda: self.board.put("load.register", content, key=key, expected=0),
                lambda ref: {"revisions": [ref.written]},
                ref=ref,
                values=[content["v"]],
                expected=0,
            )
        else:
            await self._set(ref, base)

    async def _set(self, ref: str, base: int | None) -> None:
        if base is None:
            return
        content = {"v": self._value(), "base": base}
        expected = base
        if self.planted == "blind":
            expected = None
            await anyio.sleep(BLIND_S)  # long enough for the others to come between
        await self._record(
            "revise",
            lambda: self.board.revise(ref, content, expected=expected),
            lambda ref: {"revisions": [ref.written]},
            ref=ref,
            values=[content["v"]],
            expected=base,
        )

    async def _count(self) -> None:
        """A counter shared with all writers."""
        value = self._value()

        def one_more(memory: Memory | None) -> dict[str, Any]:
            before = 0 if memory is None else int(memory.content["n"])
            base = 0 if memory is None else memory.revision
            return {"v": value, "base": base, "n": before + 1}

        ref = f"*/load.count/n{self.dice.randrange(2)}"
        await self._record(
            "update",
            lambda: self.board.update(ref, one_more),
            lambda memory: {"revisions": [memory.revision]},
            ref=ref,
            values=[value],
        )

    # Reads

    async def _read(self) -> None:
        await self._get(f"*/load.register/r{self.dice.randrange(REGISTERS)}")

    async def _get(self, ref: str) -> int | None:
        memory = await self._record(
            "get",
            lambda: self.board.get(ref),
            lambda memory: {"revisions": [memory.revision], "values": [memory.content["v"]]},
            ref=ref,
        )
        return None if memory is None else memory.revision


async def main() -> None:
    options = told()
    async with Blackboard.open(options["url"], agent=options["agent"]) as board:
        await Writer(board, options["name"], options["seed"], options["planted"]).all()


if __name__ == "__main__":
    anyio.run(main)
