"""What happens to replicas between their start and their end reaches whoever started them."""

import os
import signal
from pathlib import Path

from blackboard import Blackboard
from blackboard.runtime.control import list_cards
from tests.replicas import PROGRAMS, replicas
from tests.servers import Server
from tests.waiting import wait_until


async def test_ctrl_c_while_replicas_start_ends_them_without_a_traceback(
    server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "slow.py"
    file.write_text(
        "import sys, time\nfrom blackboard import Agent\nagent = Agent('slow')\n"
        "@agent.on('in')\nasync def take(item, board): ...\n"
        "if '--parent' in sys.argv:\n    print('loading', flush=True)\n    time.sleep(60)\n"
    )
    with replicas(server.url, tmp_path) as start:
        parent = start(PROGRAMS / "in_replicas.py", str(file), "2")
        await wait_until(lambda: parent.said().count("loading") == 2, "two loading", timeout=20)
        parent.process.send_signal(signal.SIGINT)

        assert await parent.code() == 0
        assert "Traceback" not in parent.said()


async def test_a_replica_that_was_killed_is_told_of_by_who_started_it(
    board: Blackboard, tmp_path: Path
) -> None:
    async def two() -> bool:
        return len(await list_cards(board)) == 2

    with replicas(board.url, tmp_path) as start:
        parent = start(PROGRAMS / "in_replicas.py", str(PROGRAMS / "patient.py"), "2")
        await wait_until(two, "two replicas", timeout=20)
        victim = (await list_cards(board))[0].pid
        os.kill(victim, signal.SIGKILL)

        await wait_until(lambda: "replicas.killed" in parent.said(), "the word of it", timeout=20)
        parent.terminate()
        assert await parent.code() == 1
