"""What the steward has removed for each rule, and how far it has looked: one record on the board.

It is written in one batch with what it counts, so nothing is counted twice, and of two stewards
only one removes anything.
"""

import msgspec

from blackboard.subjects import FORGET, claim_subject


class Removed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one rule has done.

    Attributes:
        ended: Memories that ended by themselves, when their time was over.
        removed: Memories that the steward took away.
    """

    ended: int = 0
    removed: int = 0


class Tally(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record.

    Attributes:
        policy: The digest of the policy that it belongs to.
        positions: Up to which revision the board was looked at, by what for.
        removed: By the key of the rule.
        order: The last order to erase what is personal.
    """

    policy: str = ""
    positions: dict[str, int] = {}
    removed: dict[str, Removed] = {}
    order: str = ""


def tally_subject(board: str, agent: str) -> str:
    """Where the record lies."""
    return claim_subject(board, FORGET, agent, "p-retention")
