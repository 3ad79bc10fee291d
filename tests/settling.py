"""Looking at a board from outside: all that is on it, and whether a handler has come to rest."""

from blackboard import Blackboard, Memory
from blackboard.errors import UnavailableError
from blackboard.jetstream import Durable
from tests.waiting import wait_until


def overseer(board: Blackboard) -> Blackboard:
    """Who may look at others' consumers: where the broker has credentials, not everybody."""
    return board


async def everything(board: Blackboard, pattern: str) -> list[Memory]:
    """All revisions and tombstones, in order."""
    async with board.replay(pattern) as memories:
        return [memory async for memory in memories]


async def settled(board: Blackboard, consumer: str, timeout: float = 20) -> None:
    """Wait until a handler has nothing left to do."""

    durable = Durable(overseer(board).log.connection, board.log.stream, consumer)

    async def idle() -> bool:
        try:
            info = await durable.info()
        except UnavailableError:
            return False
        if info is None or info.num_pending or info.num_ack_pending:
            return False
        # The consumer hears of a new message a moment after it is stored.
        wanted = info.filter
        last = await overseer(board).log.connection.last(board.log.stream, wanted)
        return last is None or info.delivered.stream_seq >= last.sequence

    await wait_until(idle, f"{consumer} has nothing left", timeout)


async def stored(board: Blackboard, pattern: str, count: int) -> bool:
    """Whether so many memories or revisions lie under a subject's tail; False without a broker."""
    try:
        subject = f"mem.{board.name}.*.*.{pattern}"
        connection = overseer(board).log.connection
        info = await connection.stream(board.log.stream, subjects=subject)
    except UnavailableError:
        return False
    return info is not None and sum(info.state.subjects.values()) >= count
