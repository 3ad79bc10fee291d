"""A thousand agents reconnect at once: the broker is killed, and all are served again soon."""

import json
import time
import urllib.request
from pathlib import Path

import pytest

from blackboard import Blackboard
from blackboard.errors import UnavailableError
from blackboard.runtime.presence import list_cards
from tests.children import Child, children
from tests.servers import Server
from tests.waiting import wait_until

AGENTS = 1000
PROCESSES = 4
LIMIT_S = 30.0
ENTER_S = 240.0


def served(crowd: list[Child], news: int) -> int:
    """How many agents have heard a piece of news, and put what they had to say."""
    return len(
        {line["agent"] for child in crowd for line in child.said() if line.get("heard") == news}
    )


def connections(server: Server) -> int:
    """How many clients the broker has; one is the test itself."""
    with urllib.request.urlopen(f"{server.monitor}/varz", timeout=10) as page:  # noqa: S310 - http
        return int(json.load(page)["connections"])


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_a_thousand_agents_are_back_within_thirty_seconds_of_a_broker_restart(
    server: Server, board: Blackboard, tmp_path: Path
):
    async def present() -> bool:
        try:
            return len(await list_cards(board.log)) == AGENTS
        except UnavailableError:
            return False

    await board.put("before", 0)  # the board is there
    with children(tmp_path) as start:
        each = AGENTS // PROCESSES
        crowd = [
            start(
                "tests.faults.programs.crowd",
                f"crowd-{number}",
                url=server.url,
                first=number * each,
                count=each,
            )
            for number in range(PROCESSES)
        ]
        for child in crowd:
            await child.until(lambda said: said, "all have entered", ENTER_S)
        await board.put("news", 1)
        await wait_until(lambda: served(crowd, 1) == AGENTS, "all are served", 120)

        server.kill()
        server.start()
        began = time.monotonic()
        await wait_until(lambda: connections(server) > AGENTS, "all are connected again", 120)
        connected_s = time.monotonic() - began
        await board.put("news", 2)
        await wait_until(lambda: served(crowd, 2) == AGENTS, "all are served again", 120)
        served_s = time.monotonic() - began
        await wait_until(present, "all are present again", 120)
        present_s = time.monotonic() - began

    print(  # noqa: T201 - the measurement
        f"{AGENTS} agents: connected again after {connected_s:.1f} s, "
        f"all served {served_s:.1f} s, present {present_s:.1f} s"
    )
    assert max(served_s, present_s) < LIMIT_S
