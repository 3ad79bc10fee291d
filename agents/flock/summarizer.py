"""The summarizer: each section of its team is summarised once, by whoever comes first.

The instructions are the same for every team, so the same text is the same work on whichever team's
behalf; what a team asks for decides which sections it reads, not what they say.

Run it with `FLOCK_TEAM=exceptions blackboard run agents/flock/summarizer.py --replicas 2`. With
OPENAI_BASE_URL set a model writes the summaries, else sentences are picked. `FLOCK_DOOR` names a
file in which every call is written down before it is made, `FLOCK_PACE` the seconds that a call
takes at least (see `door`).
"""

from contextlib import AsyncExitStack
from pathlib import Path

from door import Door
from team import SECTION, SUMMARY, TEAM, agent as declare, setting

from blackboard import Blackboard, Memory
from blackboard.consolidate.summarize import (
    DEFAULT_BUDGET,
    ExtractiveSummarizer,
    ModelSummarizer,
    Summarizer,
    instructions,
)
from blackboard.models import Patience, open_model
from blackboard.settings import load

CONCURRENCY = 4
# The door makes the retries, so that each of them is counted.
ONE_REQUEST = Patience(attempts=1)

agent = declare("summarizer")
settings = load()
name = "extractive" if settings.model_url is None else settings.model_name
prompt = instructions(DEFAULT_BUDGET)
file = setting("FLOCK_DOOR")
door = Door(Path(file) if file else None, TEAM, float(setting("FLOCK_PACE") or 0.0))
clients = AsyncExitStack()
summarizers: list[Summarizer] = []


@agent.on(SECTION, to=SUMMARY, concurrency=CONCURRENCY, start="start")
async def summarize(section: Memory, board: Blackboard) -> Memory:
    """Summarise a section, or take the summary that another team has of the same text."""
    text = str(section.content)

    async def make() -> Memory:
        return await door.ask(lambda: _summary(text), f"{name}: {prompt}", text)

    return await board.once("summary", [text], make, version=f"{name} 1", tags=section.tags)


async def _summary(text: str) -> Memory:
    summary = await (await _summarizer()).summarize(text)
    # The time it took differs from run to run; the once result keeps it, the text does not show it.
    return Memory(content=summary.text, kind="summary", cost=summary.cost)


async def _summarizer() -> Summarizer:
    """The summariser of this process; a model's connections are opened with the first call."""
    if not summarizers:
        summarizers.append(await _open())
    return summarizers[0]


async def _open() -> Summarizer:
    if settings.model_url is None:
        return ExtractiveSummarizer()
    model = await clients.enter_async_context(
        open_model(
            settings.model_url,
            key=settings.model_key,
            name=settings.model_name,
            concurrency=CONCURRENCY,
            patience=ONE_REQUEST,
        )
    )
    return ModelSummarizer(model)


if __name__ == "__main__":
    agent.run()
