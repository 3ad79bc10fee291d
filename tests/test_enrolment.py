"""Enrolment: the services' documents say what the policy says, and no more."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from blackboard.access import Policy, Rights
from blackboard.access.identity import ACCESS_STREAM, rights_subject
from blackboard.codec import decode_record
from blackboard.enrolment import Enrolled, enrol
from blackboard.jetstream import Connection
from blackboard.layout import boards
from tests.secured import Secured
from tests.servers import Server

POLICY = """\
[roles.reader]
read = [{ topics = ["docs.>"] }]
[boards.main.agents.alice]
roles = ["reader"]
handlers = ["sum"]
limits = { connections = 2 }
[boards.main.agents.bob]
roles = ["reader"]
[boards.lab.agents.alice]
roles = ["reader"]
"""


@pytest.fixture
def secured(tmp_path: Path, start_server: Callable[..., Server]) -> Secured:
    return Secured(tmp_path, start_server, POLICY)


async def _enrol(secured: Secured, connection: Connection, text: str) -> Enrolled:
    await secured.apply(text)
    return await enrol(connection, Policy.parse(text), secured.keys)


async def _document(connection: Connection, board: str, agent: str) -> bytes | None:
    message = await connection.last(ACCESS_STREAM, rights_subject(board, agent))
    return None if message is None else message.data


async def test_every_agent_gets_a_document_and_every_board_is_made(secured: Secured):
    async with Connection.open(secured.url, identity=secured.identity("cli")) as connection:
        done = await _enrol(secured, connection, POLICY)
        document = await _document(connection, "main", "alice")
        made = await boards(connection)
        policy = Policy.parse(POLICY)

        assert done == Enrolled(("main", "lab"), tuple(policy.agents()), ())
        assert made == ["lab", "main"]
        assert document is not None
        declared = policy.rights("main", "alice")
        assert declared is not None
        key = secured.keys.agents["main", "alice"]
        assert decode_record(document, Rights) == msgspec.structs.replace(declared, key=key)


async def test_what_stays_the_same_is_not_written_again(secured: Secured):
    async with Connection.open(secured.url, identity=secured.identity("cli")) as connection:
        await _enrol(secured, connection, POLICY)
        again = await _enrol(secured, connection, POLICY)
        other = await _enrol(secured, connection, f'{POLICY}handlers = ["h"]\n')
        info = await connection.stream(ACCESS_STREAM)

        assert again == Enrolled((), (), ())
        assert other == Enrolled((), (("lab", "alice"),), ())
        assert info is not None
        assert info.state.last_seq == 4


async def test_who_is_not_in_the_policy_any_more_gets_an_empty_document_once(secured: Secured):
    without = POLICY.replace('[boards.main.agents.bob]\nroles = ["reader"]\n', "")
    async with Connection.open(secured.url, identity=secured.identity("cli")) as connection:
        await _enrol(secured, connection, POLICY)
        revoked = await _enrol(secured, connection, without)
        again = await _enrol(secured, connection, without)
        document = await _document(connection, "main", "bob")
        back = await _enrol(secured, connection, POLICY)

        assert revoked == Enrolled((), (), (("main", "bob"),))
        assert again == Enrolled((), (), ())
        assert document == b""
        assert back == Enrolled((), (("main", "bob"),), ())


async def test_a_new_key_is_told(secured: Secured):
    async with Connection.open(secured.url, identity=secured.identity("cli")) as connection:
        await _enrol(secured, connection, POLICY)
        secured.keyring.rotate("bob", "main")

        assert (await _enrol(secured, connection, POLICY)).granted == (("main", "bob"),)
