"""The two streams of a board's ledger: what the broker saw being read, and the chain itself.

Only boards with credentials have them: without, the broker cannot tell who reads.

`READS_<board>` is written without a sync per message. With one, 2,000 reads a second were stored
here while 16,000 were answered: the rest waited in the broker's memory, where a crash loses it
(20,000 of 20,000, tried) and beyond 100,000 it is dropped. Without, all 46,000 a second were stored
as they came. A broker that is killed then loses the reads of its last milliseconds (4 of 5,492,
tried), a machine that loses its power those that its disk had not got yet.

The broker fixes that when a stream is made, and gives such a stream no replicas ever (10052). So on
a cluster, where a board may be given some, it is written with a sync from the beginning.
"""

from blackboard.access.identity import PREFIX
from blackboard.jetstream import Stream
from blackboard.settings import Limits

DAY_S = 24 * 3600.0
READS_AGE_S = 7 * DAY_S


def reads_stream(board: str) -> str:
    """The stream of what the broker saw being read."""
    return f"READS_{board}"


def ledger_stream(board: str) -> str:
    """The stream of the chain."""
    return f"LEDGER_{board}"


def reads_subject(board: str, agent: str = "*") -> str:
    """Below which an agent's direct gets go: `<stream>.<filter>` follows, and is stored so."""
    return f"{PREFIX}rd.{board}.{agent}"


def ledger_subject(board: str) -> str:
    """Where the chain lies."""
    return f"ledger.{board}"


def ledger_streams(board: str, limits: Limits, prefix: str = PREFIX) -> list[Stream]:
    """The streams of a board's ledger.

    Args:
        board: The board's name.
        limits: What they may hold, and how many replicas they have.
        prefix: Of a connection to a broker with credentials.
    """
    return [
        Stream(
            name=reads_stream(board),
            subjects=(f"rd.{board}.>",),
            description="what the broker saw being read, by whom",
            max_bytes=limits.reads_bytes,
            max_age_s=READS_AGE_S,
            discard="old",
            replicas=limits.replicas,
            consumers=limits.consumers,
            compressed=True,
            unsynced=True,
            unanswered=True,
            prefix=prefix,
        ),
        Stream(
            name=ledger_stream(board),
            subjects=(ledger_subject(board),),
            description="the audit that no agent can leave out, chained",
            max_bytes=limits.ledger_bytes,
            replicas=limits.replicas,
            consumers=limits.consumers,
            compressed=True,
            prefix=prefix,
        ),
    ]
