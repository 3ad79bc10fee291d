"""Chroma, in this process and kept on disk, with cosine distance and its other defaults."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from perf.peers.talk import run


class Lookup:
    """An embedding function of Chroma's that looks vectors up."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = vectors

    def __call__(self, input: list[str]) -> list[list[float]]:  # noqa: A002 - Chroma checks the name
        """Of memories."""
        return [self._vectors[text] for text in input]

    def embed_query(self, input: list[str]) -> list[list[float]]:  # noqa: A002
        """Of questions."""
        return self(input)

    @staticmethod
    def name() -> str:
        """For the collection to remember."""
        return "looked-up"

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "Lookup":
        """For its own notes; what it embeds with is the one that it was given."""
        del config
        return Lookup({})

    def get_config(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def default_space(self) -> str:
        """As the collection is configured."""
        return "cosine"

    def supported_spaces(self) -> list[str]:
        """As the collection is configured."""
        return ["cosine"]

    def is_legacy(self) -> bool:
        """No: it has a name and a configuration."""
        return False


class Chroma:
    """A collection."""

    def __init__(self, home: Path, vectors: dict[str, list[float]]) -> None:
        # The package is in the peers' environment only, so nothing is known of its types here.
        chromadb: Any = import_module("chromadb")
        settings = import_module("chromadb.config").Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(path=str(home), settings=settings)
        self._collection = client.create_collection(
            "bench",
            embedding_function=Lookup(vectors),
            configuration={"hnsw": {"space": "cosine"}},
        )

    def add(self, numbers: Sequence[int], texts: list[str], fields: list[dict[str, str]]) -> None:
        """All in one call."""
        ids = [str(number) for number in numbers]
        self._collection.add(ids=ids, documents=texts, metadatas=fields)

    def search(self, question: str, user: str | None, limit: int) -> list[str]:
        """By meaning; documents, metadata and distances come with it."""
        where = None if user is None else {"user": user}
        found = self._collection.query(query_texts=[question], n_results=limit, where=where)
        return found["documents"][0]

    def close(self) -> None:
        """Nothing to do: every call is on disk."""


if __name__ == "__main__":
    run(Chroma)
