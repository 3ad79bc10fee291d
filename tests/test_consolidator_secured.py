"""Consolidation on a broker with credentials: under its own name, and of what others wrote."""

from pathlib import Path

from blackboard.access.rights import Grant
from blackboard.jetstream import Connection
from blackboard.service import take_desk
from blackboard.settings import Settings
from tests.consolidated import AT_ONCE, Consolidator, heads, texts
from tests.embedding_stub import embedding_stub
from tests.guarded import Guarded, agent
from tests.recall_service import RecallService, current


async def test_it_condenses_what_agents_with_credentials_wrote(tmp_path: Path) -> None:
    everything = (Grant("shared", ">"),)
    server = Guarded(tmp_path / "broker", [agent("alice", read=everything, write=everything)])
    server.start()
    recall = None
    try:
        await server.lay()
        server.start_steward()
        await server.serving()
        with embedding_stub() as stub:
            recall = RecallService(
                server.url,
                tmp_path / "index",
                stub,
                environment={"BLACKBOARD_CREDENTIALS": str(server.credentials)},
            )
            async with server.board("alice") as board:
                refs = await board.put_many("pumps", texts(20), session="s1")
            async with server.board("cli") as cli:
                await current(cli)
            settings = Settings(url=server.url, credentials=server.credentials)
            async with (
                Connection.open(server.url, identity=server.identity("consolidator")) as connection,
                take_desk(connection, settings, "main", "consolidator") as desk,
            ):
                done = await Consolidator(desk, AT_ONCE, lease_s=1.0).once()
            async with server.board("cli") as cli:
                found = await heads(cli)
    finally:
        if recall is not None:
            recall.kill()
        server.end_stewards()
        server.kill()

    assert done.retired == 20
    assert {found[ref.unpinned].gone for ref in refs} == {"retired"}
    made = [one for one in found.values() if one.agent == "consolidator"]
    assert made
