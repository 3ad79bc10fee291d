"""A broker with credentials for a ledger's board: two agents that may read and write everything."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from blackboard.access import Policy
from blackboard.access.broker import configuration
from blackboard.access.identity import SERVICES, Identity
from blackboard.access.keys import Keyring, Keys
from blackboard.jetstream import Connection
from tests.servers import Server

BOARD = "main"
POLICY = """
[roles.everything]
read = [{ topics = [">"] }]
write = [{ topics = [">"] }]
[boards.main.agents.alice]
roles = ["everything"]
[boards.main.agents.bob]
roles = ["everything"]
"""


class People(NamedTuple):
    """Who has a credential at the broker, and how the broker is told."""

    keyring: Keyring
    keys: Keys
    configuration: str

    def path(self, name: str) -> Path:
        """The credential file of an agent or a service."""
        return self.keyring.path(name, None if name in SERVICES else BOARD)

    def identity(self, name: str) -> Identity:
        """The credential of an agent or a service."""
        return Identity.read(self.path(name), BOARD, name)


def people(folder: Path) -> People:
    """Make the credentials of the policy above."""
    policy = Policy.parse(POLICY)
    keyring = Keyring(folder / "credentials")
    keys = keyring.ensure(policy.agents())
    return People(keyring, keys, configuration(policy, keys))


@asynccontextmanager
async def connected(server: Server, who: Identity) -> AsyncGenerator[Connection]:
    """A connection under a credential."""
    async with Connection.open(server.url, identity=who, name=who.agent) as connection:
        yield connection
