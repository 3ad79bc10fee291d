"""The broker's system account: who is connected, how much they send, and how to cut them off."""

import anyio
import msgspec
import nats.errors
from nats.aio.msg import Msg

from blackboard.errors import UnavailableError
from blackboard.jetstream.connection import Connection
from blackboard.jetstream.requests import broken, subscribe

ANSWERS_S = 0.5
"""How long the servers of a cluster may take to answer, each for itself."""
PAGE = 1024


class Client(msgspec.Struct, frozen=True):
    """A connection to one server.

    Attributes:
        cid: Its number at that server.
        authorized_user: The public nkey that it proved to have.
        in_msgs: Messages it has sent since it connected.
        in_bytes: Their bytes.
        start: When it connected.
        server: The server's id.
    """

    cid: int
    authorized_user: str = ""
    in_msgs: int = 0
    in_bytes: int = 0
    start: str = ""
    server: str = ""


class _Page(msgspec.Struct):
    connections: list[Client] = []
    total: int = 0


class _Server(msgspec.Struct):
    id: str


class _Answer(msgspec.Struct):
    server: _Server
    data: _Page = msgspec.field(default_factory=_Page)


class System:
    """What an operator of the broker may ask of it.

    Args:
        connection: With a credential of the system account.
        account: The account that is looked at.
    """

    def __init__(self, connection: Connection, account: str) -> None:
        self._connection = connection
        self._account = account

    async def clients(self) -> list[Client]:
        """Everybody who is connected to any server.

        Raises:
            UnavailableError: No server answered in time.
        """
        found: list[Client] = []
        offset, more = 0, True
        while more:
            pages = await self._pages(offset)
            for page in pages:
                server = page.server.id
                found += [
                    msgspec.structs.replace(one, server=server) for one in page.data.connections
                ]
            offset += PAGE
            more = any(page.data.total > offset for page in pages)
        return found

    async def _pages(self, offset: int) -> list[_Answer]:
        client = self._connection.client
        body = {"auth": True, "acc": self._account, "limit": PAGE, "offset": offset}
        pages: list[_Answer] = []
        servers = max(1, self._connection.servers)
        enough = anyio.Event()

        async def arrived(msg: Msg) -> None:
            if msg.data:
                pages.append(msgspec.json.decode(msg.data, type=_Answer))
            if len(pages) >= servers:
                enough.set()

        inbox = client.new_inbox()
        subscription = await subscribe(client, inbox, arrived)
        try:
            await client.publish(
                "$SYS.REQ.SERVER.PING.CONNZ", msgspec.json.encode(body), reply=inbox
            )
            with anyio.move_on_after(ANSWERS_S):
                await enough.wait()
        except (nats.errors.Error, OSError) as error:
            raise broken(error, 0) from error
        finally:
            with anyio.move_on_after(1, shield=True):
                await subscription.unsubscribe()
        if not pages:
            raise UnavailableError("no server tells who is connected; try again")
        return pages

    async def kick(self, client: Client) -> None:
        """Cut a connection off; it may connect again.

        Raises:
            UnavailableError: No answer in time.
        """
        body = msgspec.json.encode({"cid": client.cid})
        await self._connection.request(f"$SYS.REQ.SERVER.{client.server}.KICK", body)
