"""Compare-and-set over processes and agents: no increment is lost and none is counted twice."""

from pathlib import Path

import pytest

from blackboard import Blackboard
from tests.children import children
from tests.servers import Server

REF = "*/state.counters/hits"


@pytest.mark.timeout(150)
async def test_ten_thousand_increments_by_8_processes_of_4_agents_make_10000(
    server: Server, tmp_path: Path
):
    with children(tmp_path) as start:
        counting = [
            start(
                "count_up",
                f"count-{number}",
                url=server.url,
                agent=f"agent-{number % 4}",
                ref=REF,
                times=1250,
            )
            for number in range(8)
        ]
        for child in counting:
            await child.ended(timeout_s=120)
    async with Blackboard.open(server.url) as board:
        memory = await board.get(REF)
    assert memory.content == 10_000
