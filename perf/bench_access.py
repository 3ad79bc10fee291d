"""What credentials cost: a board with an access policy beside an open one, each in its own stack.

    python perf/bench_access.py [--agents 1000]

Both stacks are started as a user does, with `blackboard up`. On the one with a policy the broker
checks every subject, records every read, and puts what it stores under other subjects; agents are
restricted to what they need here. Last, how long a policy of many agents takes to be compiled.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from blackboard import Blackboard
from blackboard.access import Policy
from blackboard.access.broker import configuration
from blackboard.access.keys import Keyring
from blackboard.session import open_session
from blackboard.settings import Limits, Settings
from perf.harness import Bench, Case, at_most, run
from perf.raw import text_of

POLICY = """
[roles.one]
read = [{ topics = ["notes.>"] }]
write = [{ topics = ["notes.>"] }]

[roles.two]
read = [{ topics = ["notes.>"], labels = ["shared", "pii"] }]
write = [{ topics = ["notes.>"], labels = ["shared", "pii"] }]

[boards.main.agents.single]
roles = ["one"]

[boards.main.agents.double]
roles = ["two"]
"""
COMPILED_S = 2.0
START_S = 60


async def main(bench: Bench) -> None:
    text = text_of()
    many = [text] * 100
    with stack(None) as free, stack(POLICY) as held:
        async with (
            opened(free, "single") as plain,
            opened(held, "single") as one,
            opened(held, "double") as two,
        ):
            refs = [await board.put("notes.a", text) for board in (plain, one, two)]
            mine, theirs, both = refs
            await bench.compare(
                "one write",
                [
                    Case("put, open", lambda _: plain.put("notes.a", text)),
                    Case(
                        "put, secured",
                        lambda _: one.put("notes.a", text),
                        goal=at_most(1.5, "put, open"),
                    ),
                ],
            )
            await bench.compare(
                "one read",
                [
                    Case("get, open", lambda _: plain.get(mine)),
                    Case(
                        "get, secured, one label",
                        lambda _: one.get(theirs),
                        goal=at_most(1.5, "get, open"),
                    ),
                    Case("get, secured, two labels", lambda _: two.get(both)),
                ],
            )
            await bench.compare(
                "a batch of 100",
                [
                    Case("put_many, open", lambda _: plain.put_many("notes.b", many)),
                    Case("put_many, secured", lambda _: one.put_many("notes.b", many)),
                ],
            )
    compile_policy(bench, bench.options.agents)


def compile_policy(bench: Bench, agents: int) -> None:
    """Read, check and compile a policy of many agents; their keys are made before."""
    roles = "\n".join(
        f'[roles.team{team}]\nread = [{{ topics = ["team{team}.>", "plans.>"] }}]\n'
        f'write = [{{ topics = ["team{team}.>"] }}]'
        for team in range(20)
    )
    members = "\n".join(
        f'[boards.main.agents.agent{number}]\nroles = ["team{number % 20}"]\nhandlers = ["work"]'
        for number in range(agents)
    )
    text = f"{roles}\n{members}\n"
    with tempfile.TemporaryDirectory(prefix="blackboard-perf-") as folder:
        keyring = Keyring(Path(folder))
        keyring.ensure(Policy.parse(text).agents())
        times: list[float] = []
        for _ in range(1 if bench.tiny else 5):
            began = time.perf_counter()
            policy = Policy.parse(text)
            configuration(policy, keyring.ensure(policy.agents()))
            times.append(time.perf_counter() - began)
    middle = sorted(times)[len(times) // 2]
    row = bench.record(
        f"compile {agents:,} agents",
        times,
        goal=(f"<= {COMPILED_S:g} s", middle <= COMPILED_S),
    )
    bench.table("an access policy", [row])


@contextmanager
def stack(policy: str | None) -> Generator[Path]:
    """A stack of its own, until the end of the block; gives its data directory."""
    with tempfile.TemporaryDirectory(prefix="blackboard-perf-") as folder:
        data = Path(folder) / "data"
        words = [sys.executable, "-m", "blackboard", "up", "--json", "--port", "0"]
        words += ["--data", str(data)]
        if policy is not None:
            path = Path(folder) / "access.toml"
            path.write_text(policy)
            words += ["--access", str(path)]
        ours = ("BLACKBOARD_URL", "BLACKBOARD_CREDENTIALS", "BLACKBOARD_TOKEN_FILE")
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment)  # noqa: S603
        try:
            line = process.stdout.readline() if process.stdout is not None else b""
            if not line:
                raise SystemExit("the stack did not start")
            json.loads(line)
            yield data
        finally:
            process.terminate()
            process.wait(timeout=START_S)


@asynccontextmanager
async def opened(data: Path, agent: str) -> AsyncGenerator[Blackboard]:
    """The board of a stack, as an agent."""
    settings = Settings(data_dir=data)
    async with open_session(settings, "main", agent, limits=Limits(), create=False) as session:
        yield Blackboard(session, session.desk("main", agent))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=1000, help="in the policy that is compiled")


if __name__ == "__main__":
    run("access", __doc__, main, n=1000, arguments=arguments)
