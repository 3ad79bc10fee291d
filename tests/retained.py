"""What tests of retention share: a policy on a board, a steward's look, and writing without us."""

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

from blackboard import Blackboard, Ref, clock
from blackboard.keeping import put_policy
from blackboard.retention import Removed, Retention, Tally, parse_retention, tally_subject
from blackboard.steward.retaining import Retaining

NONE_PERSONAL = "personal = []\n"


async def keep_to(board: Blackboard, text: str) -> Retention:
    """Put a policy on a board, without personal labels unless it says some."""
    policy = parse_retention(text if "personal" in text else NONE_PERSONAL + text)
    await put_policy(board.session.connection, board.name, policy)
    return policy


def later(**ahead: float) -> Callable[[], datetime]:
    return lambda: clock.now() + timedelta(**ahead)


def retaining(board: Blackboard, now: Callable[[], datetime] = clock.now) -> Retaining:
    return Retaining(board.session.desk(board.name, "steward"), now=now)


async def tally(board: Blackboard) -> Tally:
    subject = tally_subject(board.name, "steward")
    return (await board.log.record_at(subject, Tally))[0] or Tally()


async def removed(board: Blackboard) -> Removed:
    """What all rules together have removed."""
    found = (await tally(board)).removed.values()
    return Removed(sum(one.ended for one in found), sum(one.removed for one in found))


async def foreign(
    board: Blackboard,
    topic: str,
    content: str,
    *,
    access: str = "shared",
    before: int = 0,
    **more: object,
) -> Ref:
    """Write a memory as an agent does that knows the wire and no retention, over plain nats-py.

    Args:
        board: Where to.
        topic: Where to.
        content: What.
        access: Its label.
        before: Revises the memory that was written at this revision, named by `id`.
        more: Fields of the body, or its `id`.
    """
    name = str(more.pop("id", uuid.uuid4().hex))
    headers = {
        "Bb-Agent": "stranger",
        "Bb-Instance": uuid.uuid4().hex,
        "Bb-Write": uuid.uuid4().hex,
        "Nats-Expected-Last-Subject-Sequence": str(before),
    }
    subject = f"mem.{board.name}.{access}.stranger.{topic}.{name}"
    body = json.dumps({"content": content, **more}).encode()
    answer = await board.connection.request(subject, body, headers=headers)
    return Ref("stranger", topic, name, None, int(json.loads(answer.data)["seq"]))
