"""A broker with credentials, laid out as boards need it, for tests that bring their own rights."""

import json
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import nkeys  # pyright: ignore[reportMissingTypeStubs]

from blackboard.access.broker import read_mappings, service_permissions
from blackboard.access.identity import PROBE, Identity
from blackboard.jetstream import Connection
from tests.servers import Server

BOARD = "main"


def identity(agent: str) -> Identity:
    """A credential for an agent, with a key of its own."""
    raw = secrets.token_bytes(32)
    seed = nkeys.encode_seed(raw, nkeys.PREFIX_BYTE_USER)  # pyright: ignore[reportUnknownMemberType]
    return Identity(BOARD, agent, seed.decode())


def public_key(who: Identity) -> str:
    """The half of the key that the broker knows."""
    pair = nkeys.from_seed(bytearray(who.seed.encode()))  # pyright: ignore[reportUnknownMemberType]
    return bytes(pair.public_key).decode()


def accounts(operators: Sequence[Identity], agents: Sequence[Identity], probe: Identity) -> str:
    """The broker's configuration: operators may do all, agents read and write under `shared`."""
    users = [f"{{ nkey: {public_key(one)} }}" for one in operators]
    users += [_agent(one) for one in agents]
    users.append(_user(probe, *service_permissions()[PROBE]))
    return f"""
        accounts {{
          BB {{
            jetstream: enabled
            users: [ {", ".join(users)} ]
            mappings {json.dumps(read_mappings())}
            exports: [ {{ service: "bbread.>" }} ]
            imports: [ {{ service: {{ account: BB, subject: "bbread.>" }}, to: "_R_.bb.rd.>" }} ]
          }}
        }}
    """


def _agent(who: Identity) -> str:
    name = who.agent
    publish = [
        f"_R_.bb.mem.{BOARD}.shared.{name}.>",
        f"_R_.bb.rd.{BOARD}.{name}.MEM_{BOARD}.mem.{BOARD}.shared.>",
        f"_R_.bb.audit.{BOARD}.{name}",
        f"svc.{BOARD}.*.{name}",
        "$JS.FC.>",
    ]
    return _user(who, publish, [f"_INBOX.{BOARD}.{name}.>"])


def _user(who: Identity, publish: Sequence[str], subscribe: Sequence[str]) -> str:
    sends, hears = (", ".join(f'"{one}"' for one in subjects) for subjects in (publish, subscribe))
    return (
        f"{{ nkey: {public_key(who)}, permissions: {{ publish: {{ allow: [{sends}] }}, "
        f"subscribe: {{ allow: [{hears}] }} }} }}"
    )


@asynccontextmanager
async def connected(server: Server, who: Identity) -> AsyncGenerator[Connection]:
    """A connection under a credential."""
    async with Connection.open(server.url, identity=who, name=who.agent) as connection:
        yield connection
