"""The flock of the demo: the same agents, each team by itself and all on one board.

    python perf/bench_flock.py [--runs 1]

Runs `blackboard demo` on a local stack of its own. With `--tiny` it plays the second act only, on
one short file.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE

import anyio

from perf.harness import Bench, run
from perf.machine import ROOT

ACTS = ("isolated", "shared")
PIECE = "# {0}\n\nErrors are raised, caught and cleaned up after. Section {0} tells how.\n\n"


async def play(acts: tuple[str, ...], words: list[str]) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "blackboard", "demo", "--json"]
    for act in acts:
        command += ["--act", act]
    done = await anyio.run_process([*command, *words], stderr=PIPE, cwd=ROOT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the demo failed: {done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout)


async def main(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(prefix="blackboard-perf-") as folder:
        acts, words = ACTS, list[str]()
        if bench.tiny:
            (Path(folder) / "short.md").write_text("".join(PIECE.format(n) for n in range(3)))
            acts, words = ("shared",), [folder]
        played = [await play(acts, words) for _ in range(bench.size(bench.options.runs, 1))]
    base = None
    for act in acts:
        seconds = [one[act]["seconds"] for one in played]
        uses = played[-1][acts[0]]["model_calls"]
        rate = uses / min(seconds)
        result = bench.record(f"{act}", [1000 * one for one in seconds], rate=rate, against=base)
        base = base or result
    bench.table("the flock (rate in summaries used)", bench.results)
    for act in acts:
        last = played[-1][act]
        facts = ("model_calls", "distinct", "tokens", "bytes_moved", "seconds")
        bench.say(f"{act}: " + ", ".join(f"{fact} {last.get(fact)}" for fact in facts))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=1)


if __name__ == "__main__":
    run("flock", __doc__, main, n=1, arguments=arguments)
