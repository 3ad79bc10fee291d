"""LangGraph's in-memory store, with an index over the text."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from perf.peers.talk import run

PLACE = ("bench",)


class LangGraph:
    """A store; nothing of it is kept."""

    def __init__(self, home: Path, vectors: dict[str, list[float]]) -> None:
        del home
        memory: Any = import_module("langgraph.store.memory")

        def embed(texts: Sequence[str]) -> list[list[float]]:
            return [vectors[text] for text in texts]

        dimensions = len(next(iter(vectors.values())))
        index = {"dims": dimensions, "embed": embed, "fields": ["text"]}
        self._store = memory.InMemoryStore(index=index)

    def add(self, numbers: Sequence[int], texts: list[str], fields: list[dict[str, str]]) -> None:
        """One by one, as it is documented."""
        for number, text, each in zip(numbers, texts, fields, strict=True):
            self._store.put(PLACE, str(number), {"text": text, **each})

    def search(self, question: str, user: str | None, limit: int) -> list[str]:
        """By meaning."""
        where = None if user is None else {"user": user}
        found = self._store.search(PLACE, query=question, filter=where, limit=limit)
        return [item.value["text"] for item in found]

    def close(self) -> None:
        """Nothing to do."""


if __name__ == "__main__":
    run(LangGraph)
