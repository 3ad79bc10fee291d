"""Reads what recall found and words the reply: a model if there is an endpoint, else rules.

Only `Hits.as_context` brings a customer's words before a model: numbered, quoted, and said to be
data. What the model chooses is a number of that list, so it can cite no memory that is not there,
and a text that is no such number means that the customer is asked.
"""

from contextlib import AsyncExitStack
from typing import Protocol

from facts import Fact

from blackboard import Hit, Hits
from blackboard.models import Model, open_model
from blackboard.settings import load

CONTEXT_TOKENS = 800
CHOOSE = (
    "You work at a support desk and look through memories of what one customer said. Which of them "
    "answers the question that follows them? Reply with its number alone, like m2, or with the "
    "word none if no memory answers it. Do not guess."
)
ANSWER = (
    "You are the {department} department of a support desk and write to a customer. You know what "
    "the memories tell, and you have all that you need. Say in at most 60 words that you do the "
    "following, with the details of the memories that matter for it; promise nothing else: {errand}"
)


class Clerk(Protocol):
    """Reads and writes for a department."""

    async def choose(self, fact: Fact, hits: Hits) -> Hit | None:
        """The hit that tells a fact; None when none does."""
        ...

    async def answer(self, department: str, errand: str, notes: Hits) -> str:
        """What is said to the customer when nothing is left to ask."""
        ...


class RuleClerk:
    """Takes the best hit that looks like an answer, and says the same in every case."""

    async def choose(self, fact: Fact, hits: Hits) -> Hit | None:
        """See `Clerk.choose`."""
        return next((hit for hit in hits if fact.sign.search(str(hit.memory.content))), None)

    async def answer(self, department: str, errand: str, notes: Hits) -> str:
        """See `Clerk.answer`."""
        return errand


class ModelClerk:
    """Asks a model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def choose(self, fact: Fact, hits: Hits) -> Hit | None:
        """See `Clerk.choose`."""
        context = hits.as_context(CONTEXT_TOKENS)
        if not context:
            return None
        prompt = f"{context}\n\nThe memories end here. The question: {fact.question}"
        said = (await self._model.complete(prompt, system=CHOOSE, max_tokens=16)).text
        number = said.strip(" \t\n[].*").lower()
        # Only what was shown can be chosen; a quoted line cannot look like this.
        return hits[number] if f"\n[{number}] " in context else None

    async def answer(self, department: str, errand: str, notes: Hits) -> str:
        """See `Clerk.answer`."""
        system = ANSWER.format(department=department, errand=errand)
        prompt = f"{notes.as_context(CONTEXT_TOKENS)}\n\nThe memories end here. Your message:"
        return (await self._model.complete(prompt, system=system, max_tokens=200)).text


_open = AsyncExitStack()
_clerks: list[Clerk] = []


async def open_clerk() -> Clerk:
    """The clerk of this process; a model's connections are opened with the first use."""
    if not _clerks:
        settings = load()
        if settings.model_url is None:
            _clerks.append(RuleClerk())
        else:
            model = open_model(settings.model_url, key=settings.model_key, name=settings.model_name)
            _clerks.append(ModelClerk(await _open.enter_async_context(model)))
    return _clerks[0]
