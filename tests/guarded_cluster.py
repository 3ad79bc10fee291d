"""Three real brokers with credentials in one cluster, and a steward that knows them all."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from blackboard.access.rights import Rights
from tests.clusters import SIZE, Cluster, cluster_block
from tests.guarded import Guarded
from tests.scene import PEOPLE
from tests.servers import Server, free_port


class GuardedCluster(Cluster):
    """Three servers that hold the same agents to the same rights.

    Args:
        directory: For everything.
        rights: The agents, each with what it may do.
    """

    def __init__(self, directory: Path, rights: Sequence[Rights]) -> None:
        self.rights = rights
        self.guarded: list[Guarded] = []
        super().__init__(directory)

    def _lay(self, directory: Path, name: str) -> list[Server]:
        ports = [free_port() for _ in range(SIZE)]
        routes = [f"nats://127.0.0.1:{port}" for port in ports]
        self.guarded = [
            Guarded(
                directory / member,
                self.rights,
                credentials=directory / "credentials",
                name=member,
                extra=cluster_block(name, f"127.0.0.1:{port}", routes),
            )
            for member, port in zip(self.names, ports, strict=True)
        ]
        return list(self.guarded)

    @property
    def front(self) -> Guarded:
        """The first of them, by which everything is done that an operator or agent does."""
        return self.guarded[0]

    def start(self) -> None:
        super().start()
        self.front.address = self.url


@asynccontextmanager
async def guarded_cluster(
    directory: Path, people: Sequence[Rights] = PEOPLE, *, replicas: int = 3
) -> AsyncGenerator[GuardedCluster]:
    """Three brokers with credentials and a steward that serves.

    Args:
        directory: For everything.
        people: The agents.
        replicas: 1 or 3: of the boards; one is what somebody gets who knows one server only.
    """
    cluster = GuardedCluster(directory, people)
    try:
        cluster.start()
        cluster.front.address = cluster.url if replicas == SIZE else cluster.front.url
        await cluster.front.lay()
        cluster.front.address = cluster.url
        cluster.front.start_steward()
        await cluster.front.serving()
        yield cluster
    finally:
        cluster.front.end_stewards()
        cluster.kill()
