"""Measures operations side by side, prints a table and keeps the figures.

Ours and the raw client take turns in blocks, in changing order, so that a busy machine slows both;
what is compared is the median over the rounds of (median of ours / median of the other) in the same
round. What a block leaves behind to be written (audit, spans) is written inside the block's time,
so that rates pay for it. Every run has a throw-away broker of its own, which syncs every message.
"""

import argparse
import gc
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import anyio
import msgspec

from perf.machine import ROOT, commit, machine, versions
from perf.servers import Server, nats_server

COLUMNS = ("what", "n", "p50 ms", "p90", "p95", "p99", "max", "per s", "ratio", "goal")


class Result(msgspec.Struct, kw_only=True):
    """One line of a table; times in milliseconds."""

    bench: str
    what: str
    n: int
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    rate: float
    """Items per second, from one caller after another unless `what` says otherwise."""
    bytes: int | None = None
    """Of one item's body."""
    ratio: float | None = None
    against: str | None = None
    goal: str | None = None
    met: bool | None = None
    at: datetime | None = None
    commit: str = ""
    machine: str = ""
    versions: dict[str, str] = {}
    load: tuple[float, float] = (0.0, 0.0)
    """Load average over a minute, at the beginning and at the end."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached, in words and as a limit on the median, from the others' medians."""

    text: str
    limit: Callable[[Mapping[str, float]], float]


def at_most(factor: float, other: str) -> Goal:
    """The median is at most so many times another case's."""
    return Goal(f"<= {factor:g} x {other}", lambda medians: factor * medians[other])


@dataclass(slots=True)
class Case:
    """One operation to measure.

    Attributes:
        what: Its name in the table.
        run: Called with the number of the call; what it returns is awaited if `plain` is off.
        plain: It is an ordinary function.
        items: How many things one call does, for the rate.
        settle: Called at the end of each block, inside its time.
        goal: To be reached.
        bytes: Of one item's body.
    """

    what: str
    run: Callable[[int], object]
    plain: bool = False
    items: int = 1
    settle: Callable[[], Awaitable[object]] | None = None
    goal: Goal | None = None
    bytes: int | None = None
    blocks: list[list[float]] = field(default_factory=list[list[float]])
    rates: list[float] = field(default_factory=list[float])

    async def block(self, first: int, count: int) -> None:
        """Measure `count` calls."""
        began = time.perf_counter()
        self.blocks.append(
            _plainly(self.run, first, count)
            if self.plain
            else await _awaiting(self.run, first, count)
        )
        if self.settle is not None:
            await self.settle()
        self.rates.append(count * self.items / (time.perf_counter() - began))


async def _awaiting(run: Callable[[int], object], first: int, count: int) -> list[float]:
    times: list[float] = []
    for number in range(first, first + count):
        began = time.perf_counter()
        result = run(number)
        if isinstance(result, Awaitable):
            await result
        times.append(1000 * (time.perf_counter() - began))
    return times


def _plainly(run: Callable[[int], object], first: int, count: int) -> list[float]:
    times: list[float] = []
    for number in range(first, first + count):
        began = time.perf_counter()
        run(number)
        times.append(1000 * (time.perf_counter() - began))
    return times


@dataclass(slots=True)
class Bench:
    """One run of one program of this folder."""

    name: str
    options: argparse.Namespace
    server: Server
    results: list[Result] = field(default_factory=list[Result])
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    packages: dict[str, str] = field(default_factory=versions)
    """Versions that are kept with the figures; add those of what is measured beside."""

    @property
    def url(self) -> str:
        """Of the run's own broker."""
        return self.server.url

    @property
    def tiny(self) -> bool:
        """Only to see that it works."""
        return self.options.tiny

    @property
    def full(self) -> bool:
        """With the sizes that take long."""
        return self.options.full

    def size(self, usual: int, tiny: int, full: int | None = None) -> int:
        """The size of something, by how the program was called."""
        return tiny if self.tiny else (full or usual) if self.full else usual

    async def compare(
        self, title: str, cases: Sequence[Case], *, n: int | None = None, against: str | None = None
    ) -> dict[str, Result]:
        """Measure cases in turns and print them as a table.

        Args:
            title: Of the table.
            cases: The first is what the others are compared with, unless `against` names another.
            n: Calls of each case; None takes `--n`.
            against: The name of a case.
        """
        rounds = self.options.rounds
        count = max(1, (n or self.options.n) // rounds)
        calls = dict.fromkeys((case.what for case in cases), 0)
        for turn in range(rounds + 1):
            shift = turn % len(cases)
            for case in (*cases[shift:], *cases[:shift]):
                gc.collect()
                await case.block(calls[case.what], count if turn else max(1, count // 5))
                calls[case.what] += count
            if not turn:  # the first round only warms up
                for case in cases:
                    case.blocks.clear()
                    case.rates.clear()
        base = next(case for case in cases if case.what == (against or cases[0].what))
        medians = [
            {case.what: statistics.median(case.blocks[turn]) for case in cases}
            for turn in range(rounds)
        ]
        self._print_title(title)
        for case in cases:
            self.results.append(_compared(self.name, title, case, base, medians))
        self.show(self.results[-len(cases) :])
        return dict(zip(calls, self.results[-len(cases) :], strict=True))

    def record(
        self,
        what: str,
        times: Sequence[float],
        *,
        rate: float | None = None,
        goal: tuple[str, bool] | None = None,
        against: Result | None = None,
    ) -> Result:
        """Keep times in milliseconds that were measured elsewhere; `show` prints them."""
        result = _summed(self.name, what, times, rate or 1000 * len(times) / max(1e-9, sum(times)))
        if goal is not None:
            result.goal, result.met = goal
        if against is not None:
            result.ratio, result.against = result.p50 / against.p50, against.what
        self.results.append(result)
        return result

    def table(self, title: str, results: Sequence[Result]) -> None:
        """Print results under a title."""
        self._print_title(title)
        self.show(results)

    def _print_title(self, title: str) -> None:
        print(f"\n{title}")

    def show(self, results: Sequence[Result]) -> None:
        """Print results as an aligned table."""
        rows = [COLUMNS, *(_row(result) for result in results)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        for row in rows:
            first, *numbers, goal = row
            cells = [
                number.rjust(width) for number, width in zip(numbers, widths[1:], strict=False)
            ]
            print("  ".join([first.ljust(widths[0]), *cells, goal]).rstrip(), flush=True)

    def say(self, text: str) -> None:
        """Print a line, such as what was skipped and why."""
        print(text, flush=True)

    def keep(self) -> None:
        """Append the results to `<results>/<bench>.jsonl`."""
        folder = Path(self.options.results)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"commit": commit(), "machine": machine(), "versions": self.packages}
        with (folder / f"{self.name}.jsonl").open("ab") as lines:
            for result in self.results:
                load = (round(self.load, 2), round(os.getloadavg()[0], 2))
                kept = msgspec.structs.replace(result, at=datetime.now(UTC), load=load, **facts)
                lines.write(msgspec.json.encode(kept) + b"\n")


def _summed(bench: str, what: str, times: Sequence[float], rate: float) -> Result:
    ordered = sorted(times)

    def share(part: float) -> float:
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    return Result(
        bench=bench,
        what=what,
        n=len(ordered),
        p50=statistics.median(ordered),
        p90=share(0.9),
        p95=share(0.95),
        p99=share(0.99),
        max=ordered[-1],
        rate=rate,
    )


def _compared(
    bench: str, title: str, case: Case, base: Case, medians: list[dict[str, float]]
) -> Result:
    times = [moment for block in case.blocks for moment in block]
    result = _summed(bench, f"{title}: {case.what}", times, statistics.median(case.rates))
    result.p50 = statistics.median(one[case.what] for one in medians)
    result.bytes = case.bytes
    if case is not base:
        result.ratio = statistics.median(one[case.what] / one[base.what] for one in medians)
        result.against = base.what
    if case.goal is not None:
        goal = case.goal
        result.goal = goal.text
        result.met = statistics.median(one[case.what] / goal.limit(one) for one in medians) <= 1
    return result


def _row(result: Result) -> tuple[str, ...]:
    times = (result.p50, result.p90, result.p95, result.p99, result.max)
    ratio = "" if result.ratio is None else f"{result.ratio:.2f} x"
    goal = "" if result.goal is None else f"{result.goal} {'ok' if result.met else 'MISSED'}"
    what = result.what.rpartition(": ")[2]
    return (what, f"{result.n:,}", *map(_figures, times), f"{result.rate:,.0f}", ratio, goal)


def _figures(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"


def run(
    name: str,
    description: str | None,
    main: Callable[[Bench], Awaitable[None]],
    *,
    n: int,
    rounds: int = 10,
    arguments: Callable[[argparse.ArgumentParser], object] | None = None,
) -> None:
    """Read the command line, start a broker, measure, keep the results, end the broker.

    Args:
        name: Of the bench.
        description: Shown by `--help`.
        main: Measures.
        n: Calls of each case when `--n` is not given.
        rounds: The same for `--rounds`.
        arguments: Adds options.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=n, help="calls of each case (%(default)s)")
    parser.add_argument("--rounds", type=int, default=rounds, help="turns (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="only to see that it works")
    parser.add_argument("--full", action="store_true", help="the sizes that take long as well")
    parser.add_argument("--results", default=str(ROOT / "perf" / "results"), help="folder of lines")
    if arguments is not None:
        arguments(parser)
    options = parser.parse_args()
    if options.tiny:
        options.n, options.rounds = 10, 2
    signal.signal(signal.SIGTERM, _end)
    print(f"{name}: {machine()}; commit {commit() or 'unknown'}; ", end="")
    print(" ".join(f"{package} {version}" for package, version in versions().items()))
    print("load over 1, 5, 15 minutes: " + " ".join(f"{load:.2f}" for load in os.getloadavg()))
    try:
        with nats_server() as server:
            bench = Bench(name, options, server)
            anyio.run(main, bench)
            bench.keep()
    except KeyboardInterrupt:
        sys.exit(130)


def _end(_signal: int, _frame: object) -> NoReturn:
    sys.exit(143)
