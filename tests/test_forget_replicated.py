"""On three servers a receipt is complete only when no log of any of them holds a byte any more."""

from pathlib import Path

import pytest

from blackboard import Blackboard
from blackboard.settings import Limits
from tests.clusters import Cluster
from tests.forgetting import Steward, files_with
from tests.waiting import wait_until

SECRET = "planted-77ab"  # noqa: S105 - a word to look for


def held(cluster: Cluster) -> list[str]:
    return [file for member in cluster.members for file in files_with(member.directory, SECRET)]


@pytest.mark.faults
@pytest.mark.timeout(500)
async def test_a_receipt_waits_for_the_logs_of_all_servers(cluster: Cluster, tmp_path: Path):
    monitors = ",".join(member.monitor for member in cluster.members)
    steward = Steward(cluster.url, tmp_path / "steward.log", monitors=monitors)
    async with Blackboard.open(cluster.url, agent="alice", limits=Limits(replicas=3)) as alice:
        source = await alice.put("cases", SECRET, user="u1")
        await alice.put("notes", [SECRET] * 60_000, sources=[source])
        await alice.put("state.cases", SECRET, key="k", user="u1")
        keep = await alice.put("notes", "sunfish")
        assert len(held(cluster)) >= 3
        steward.start()
        try:
            receipt = await alice.forget(user="u1")
            assert receipt.state == "pending"
            assert held(cluster)

            async def complete() -> bool:
                found = await alice.receipt(receipt.order)
                return found is not None and found.state == "complete"

            await wait_until(complete, "the receipt is complete", 450)
        finally:
            steward.kill()
        assert held(cluster) == []
        assert (await alice.get(keep)).content == "sunfish"


async def test_without_the_monitoring_it_stays_pending_and_says_what_to_do(
    cluster: Cluster, tmp_path: Path
):
    steward = Steward(cluster.url, tmp_path / "steward.log")
    async with Blackboard.open(cluster.url, agent="alice", limits=Limits(replicas=3)) as alice:
        source = await alice.put("cases", SECRET)
        steward.start()
        try:
            receipt = await alice.forget(source, confirmed=True)
        finally:
            steward.kill()
    assert receipt.state == "pending"
    assert "BLACKBOARD_MONITOR" in receipt.waits_for[0]
