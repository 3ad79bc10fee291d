"""The fixture itself: an honest agent gets what it may, and nothing else."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from blackboard.access.rights import Grant
from blackboard.errors import DeniedError
from tests.guarded import Guarded, agent


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Guarded]:
    rights = [
        agent("alice", read=[Grant("shared", "docs.>")], write=[Grant("shared", "docs.>")]),
        agent("bob", read=[Grant("shared", "docs.public.>")]),
    ]
    secured = Guarded(tmp_path / "secured", rights)
    try:
        secured.start()
        await secured.lay()
        secured.start_steward()
        await secured.serving()
        yield secured
    finally:
        secured.end_stewards()
        secured.kill()


async def test_it_works(broker: Guarded) -> None:
    async with broker.board("alice") as alice, broker.board("bob") as bob:
        public = await alice.put("docs.public.a", "seen")
        secret = await alice.put("docs.secret.a", "unseen")

        assert (await bob.get(public)).content == "seen"
        with pytest.raises(DeniedError, match=r"docs\.secret"):
            await bob.get(secret)
    async with broker.raw("bob") as raw:
        assert await raw.get("mem.main.shared.*.docs.public.a.*") is not None
        assert await raw.get("mem.main.shared.*.docs.>") is None
