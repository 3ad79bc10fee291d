"""What happens to 150 memories, the same whenever it is asked for: written, revised, removed, back."""

import random

from blackboard.recall.index import Entry
from blackboard.subjects import Ref
from tests.entries import entry

SIZE = 20
"""Revisions in a batch."""


def batch(number: int) -> tuple[list[Entry], list[Ref], int]:
    """What `Index.apply` is given for the batch of this number, from 1."""
    chance = random.Random(number)
    names = chance.sample(range(150), SIZE)
    written, removed = names[:16], names[16:]
    first = SIZE * (number - 1) + 1
    entries = [
        entry(
            first + place,
            chance,
            ref=Ref("alice", "docs.a", f"{name:032x}"),
            author="alice",
            session="s1",
            tags={"dept": "billing"},
            expires=None,
            shows=None,
        )
        for place, name in enumerate(written)
    ]
    gone = [Ref("alice", "docs.a", f"{name:032x}") for name in removed]
    return entries, gone, SIZE * number
