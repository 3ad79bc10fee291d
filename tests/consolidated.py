"""What must hold of a board that is condensed, and a model that condenses."""

import json
from collections import Counter
from datetime import timedelta

import anyio

from blackboard import Blackboard, Memory, Ref
from blackboard.consolidator.policy import Policy, Rules
from blackboard.consolidator.service import Consolidator
from blackboard.envelope import Write
from blackboard.jetstream import Start
from blackboard.models import Model
from blackboard.subjects import Pattern

AT_ONCE = Rules(policy=(Policy(older_than=timedelta(0), count=10, ratio=3),))
PLACES = ("Bergen", "Antwerp", "Rotterdam", "Oslo", "Genoa", "Malmo", "Gdansk", "Izmir")


def texts(count: int, mark: str = "Pump") -> list[str]:
    return [
        f"{mark} {number} in {PLACES[number % len(PLACES)]} runs at {40 + number} bar. "
        "Good to know, thanks for telling me about that."
        for number in range(count)
    ]


def consolidator(
    board: Blackboard, rules: Rules = AT_ONCE, model: Model | None = None
) -> Consolidator:
    desk = board.session.desk(board.name, "consolidator")
    return Consolidator(desk, rules, model, lease_s=1.0)


async def heads(board: Blackboard) -> dict[Ref, Memory]:
    """The newest revision of everything on a board, tombstones included."""
    found: dict[Ref, Memory] = {}
    subject = Pattern(">").subject(board.name)
    async with board.log.follow(subject, Start.newest()) as following:
        while following.pending:
            memory = await following.step()
            if memory is not None:
                found[memory.ref.unpinned] = memory
    return found


async def summaries(board: Blackboard) -> list[Memory]:
    """The live summaries of a board."""
    return [
        one
        for one in (await heads(board)).values()
        if one.agent == "consolidator" and one.gone is None
    ]


async def check(board: Blackboard, put: dict[Ref, str]) -> None:
    """Nothing is gone without its one summary; what was put is known by its first revision."""
    now = await heads(board)
    made = await summaries(board)
    covers = Counter(source for one in made for source in one.sources)
    for ref, text in put.items():
        source = ref.pinned()
        head = now.get(ref.unpinned)
        assert head is not None, f"{ref} is gone without a trace"
        assert covers[source] <= 1, f"{ref} is in {covers[source]} summaries"
        if head.gone is None:
            assert head.content == text
        else:
            assert head.gone == "retired"
            assert covers[source] == 1, f"{ref} was retired without a summary"


async def settle(board: Blackboard, put: dict[Ref, str]) -> None:
    """Condense what is left, and check that all of it is condensed once."""
    with anyio.fail_after(30):
        while True:
            await consolidator(board).once()
            await check(board, put)
            now = await heads(board)
            if all(now[ref.unpinned].gone == "retired" for ref in put):
                return
            await anyio.sleep(0.2)


async def bury(board: Blackboard, ref: Ref) -> None:
    """Forget a memory, as an erasure does."""
    head = await board.log.head(ref.unpinned)
    assert head is not None
    write = Write(
        ref=ref.unpinned,
        access=head.access,
        agent=head.agent,
        expected=head.revision,
        gone="forgotten",
    )
    await board.log.append(write)


def condensing(_system: str, prompt: str) -> str:
    """What a well-behaved model answers: the first words of each memory."""
    lines = [json.loads(line) for line in prompt.splitlines() if line.startswith("{")]
    return json.dumps(
        {
            "sentences": [
                {"text": " ".join(line["text"].split()[:6]) + ".", "memories": [line["n"]]}
                for line in lines[:8]
            ]
        }
    )
