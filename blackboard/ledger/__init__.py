"""The ledger: an audit that no agent can leave out, chained by hash and signed.

Agents keep journals of what they read and did (`AUDIT_<board>`), which a process that means harm
would not write. On boards with credentials the steward therefore keeps a second record of what
others than the agent say: which direct gets the broker saw, how far it delivered through each
consumer, what services read for agents, what was refused. It pins the journals by their hashes too.
Each record names the hash of the one before and the board's key signs checkpoints, so `verify` can
tell when something was changed or removed afterwards, and what.
"""

from blackboard.ledger.items import (
    AnyItem,
    Delivered,
    Denied,
    Follow,
    Privileged,
    Read,
    Served,
)
from blackboard.ledger.keeper import Ledger
from blackboard.ledger.key import BoardKey, load_key
from blackboard.ledger.streams import ledger_stream, ledger_streams, reads_stream
from blackboard.ledger.violations import Violations

__all__ = [
    "AnyItem",
    "BoardKey",
    "Delivered",
    "Denied",
    "Follow",
    "Ledger",
    "Privileged",
    "Read",
    "Served",
    "Violations",
    "ledger_stream",
    "ledger_streams",
    "load_key",
    "reads_stream",
]
