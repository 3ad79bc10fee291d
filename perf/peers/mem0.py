"""mem0 with `infer=False`, over the local mode of Qdrant, which is its default store.

It asks for a model and an embedder before it does anything. The model is never used, and the
embedder is exchanged for the vectors given; neither has a key.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from perf.peers.talk import run

AGENT = "bench"
NOBODY = {"provider": "openai", "config": {"api_key": "none"}}


class Lookup:
    """An embedder of mem0's that looks vectors up."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = vectors

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        """Of one text, for whatever it is."""
        del memory_action
        return self._vectors[text]


class Mem0:
    """A memory."""

    def __init__(self, home: Path, vectors: dict[str, list[float]]) -> None:
        mem0: Any = import_module("mem0")
        dimensions = len(next(iter(vectors.values())))
        store = {
            "path": str(home / "qdrant"),
            "collection_name": "bench",
            "embedding_model_dims": dimensions,
            "on_disk": True,
        }
        self._memory = mem0.Memory.from_config(
            {
                "vector_store": {"provider": "qdrant", "config": store},
                "embedder": NOBODY,
                "llm": NOBODY,
                "history_db_path": str(home / "history.db"),
            }
        )
        self._memory.embedding_model = Lookup(vectors)

    def add(self, numbers: Sequence[int], texts: list[str], fields: list[dict[str, str]]) -> None:
        """One by one: a call has one user, and each of its texts would be stored alone anyway."""
        del numbers
        for text, each in zip(texts, fields, strict=True):
            self._memory.add(
                text,
                agent_id=AGENT,
                user_id=each["user"],
                metadata={"team": each["team"]},
                infer=False,
            )

    def search(self, question: str, user: str | None, limit: int) -> list[str]:
        """By meaning; it refuses to search without a filter, so there is always the agent."""
        filters = {"agent_id": AGENT} | ({} if user is None else {"user_id": user})
        found = self._memory.search(question, top_k=limit, filters=filters, threshold=0.0)
        return [hit["memory"] for hit in found["results"]]

    def close(self) -> None:
        """Let go of the files, which complains at the end of the interpreter otherwise."""
        self._memory.vector_store.client.close()


if __name__ == "__main__":
    run(Mem0)
