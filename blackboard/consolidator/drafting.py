"""A summary as a memory: what is read, what is written, and what stands beside the text."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from blackboard import clock
from blackboard.consolidate.extract import Said
from blackboard.consolidator.groups import Key
from blackboard.consolidator.plan import length
from blackboard.consolidator.policy import Policy
from blackboard.consolidator.writers import Writer, Written
from blackboard.messages import Memory
from blackboard.plaintext import day_of, plain
from blackboard.tokens import tokens

MAX_CHARS = 400_000
"""Of one memory."""


class Draft(msgspec.Struct, frozen=True):
    """A summary that is not stored yet.

    Attributes:
        memory: It; its sources are pinned.
        read: Tokens of what it was made from.
        kept: Tokens of its text.
        spent: Tokens that a model took.
    """

    memory: Memory
    read: int
    kept: int
    spent: int


async def draft(
    writer: Writer, key: Key, memories: Sequence[Memory], policy: Policy
) -> Draft | None:
    """Condense memories of one group, with their content; None when nothing comes of it.

    Raises:
        RetryableError: The model does not answer now, or has to wait its turn; again later.
        ModelRefusedError: It will not do it, or what it says is no summary.
    """
    if not memories:
        return None
    said = [Said(plain(one, MAX_CHARS), one.agent, day_of(one)) for one in memories]
    read = sum(tokens(one.text) for one in said)
    written = await writer.write(said, length(read, policy))
    if not written.text:
        return None
    memory = _memory(key, memories, written, read)
    return Draft(memory, read, tokens(written.text), written.cost.tokens)


def _memory(key: Key, memories: Sequence[Memory], written: Written, read: int) -> Memory:
    common: Mapping[str, str] = {
        name: value
        for name, value in memories[0].tags.items()
        if all(memory.tags.get(name) == value for memory in memories)
    }
    tags = {**common, "memories": str(len(memories)), "tokens": str(read)}
    if written.prompt is not None:
        tags["prompt"] = written.prompt
    return Memory(
        content=written.text,
        kind="summary",
        session=key.session,
        user=key.user,
        tags=tags,
        priority=max(memory.priority for memory in memories),
        sources=tuple(memory.pinned for memory in memories),
        cost=written.cost,
        happened=max(map(_moment, memories)),
        hops=max(memory.hops for memory in memories),
    )


def _moment(memory: Memory) -> datetime:
    return memory.happened or memory.stored or clock.now()
