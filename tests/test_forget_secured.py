"""Forgetting on a board with credentials: an operator's right, whoever wrote what is forgotten."""

from pathlib import Path

import pytest

from blackboard import Blackboard, Ref
from blackboard.cli.policies import enrol_local
from blackboard.errors import DeniedError, GoneError, RetryableError
from blackboard.local import join
from blackboard.local.directory import Directory
from blackboard.local.security import write_policy
from tests.forgetting import files_with
from tests.waiting import wait_until

SECRET = "planted-c0d1"  # noqa: S105 - a word to look for
POLICY = """\
[roles.writer]
read  = [{ topics = [">"] }]
write = [{ topics = [">"] }]

[boards.main.agents.alice]
roles = ["writer"]

[boards.main.agents.bob]
roles = ["writer"]
"""


async def _finds(board: Blackboard, ref: Ref) -> bool:
    try:
        hits = await board.recall("sunfish")
    except RetryableError:
        return False
    return ref in [hit.memory.ref for hit in hits]


@pytest.mark.timeout(120)
async def test_an_operator_forgets_what_agents_wrote_and_agents_may_not(data_dir: Path):
    directory = Directory.at(data_dir)
    directory.prepare()
    write_policy(directory, POLICY)
    async with join(data_dir, port=0) as endpoint:
        await enrol_local(endpoint)
        async with (
            Blackboard.local(data_dir=data_dir, agent="alice") as alice,
            Blackboard.local(data_dir=data_dir, agent="bob") as bob,
            Blackboard.local(data_dir=data_dir, agent="cli") as operator,
        ):
            source = await alice.put("docs", SECRET, user="u1")
            made = await bob.put("docs", f"of {SECRET}", sources=[source])
            keep = await bob.put("docs", "sunfish")
            with pytest.raises(DeniedError, match="operator's credential"):
                await alice.forget(source)

            await wait_until(lambda: _finds(alice, keep), "it is indexed", 30)

            receipt = await operator.forget(user="u1", reason="request 881", timeout=30)

            assert receipt.memories == 2

            async def complete() -> bool:
                found = await operator.receipt(receipt.order)
                return found is not None and found.state == "complete"

            await wait_until(complete, "the receipt is complete, index included", 30)
            stores = (await operator.receipt(receipt.order) or receipt).stores
            assert [store.what for store in stores if store.what == "entries"]
            for ref in (source, made):
                with pytest.raises(GoneError):
                    await bob.get(ref)
            assert (await alice.get(keep)).content == "sunfish"
            assert files_with(data_dir, SECRET) == []
