"""Texts as vectors: all-MiniLM-L6-v2 on this machine, or an OpenAI-compatible endpoint.

Offline is the default, so that recall works where there is no network. A vector depends on its text
alone, to the last bit on one machine: each text is a run of its own, because in 8 bits the texts of
a batch share a scale and pull at each other's vectors.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import numpy as np
from tokenizers import Tokenizer

from blackboard.errors import ModelRefusedError
from blackboard.models import Model
from blackboard.recall import weights
from blackboard.recall.hands import Hands
from blackboard.recall.weights import FloatArray, Precision, Session

MINILM_DIMENSIONS = 384
MAX_TOKENS = 256
"""What MiniLM was trained on; the rest of a longer text is not seen."""
MAX_CHARS = 16_384
"""Cut before the tokenizer, which would read all of a large text to use 256 tokens of it."""
WINDOW = 2048
"""Texts tokenized at a time, which bounds the memory of a large call."""
MOST_THREADS = 4


class Embedder(Protocol):
    """Turns texts into vectors; two embedders of the same name give comparable vectors."""

    @property
    def name(self) -> str:
        """The model, for the index to remember."""
        ...

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        ...

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> FloatArray:
        """Embed texts.

        Args:
            texts: Any number.
            urgent: Somebody waits for it: a question does not queue behind what is indexed.

        Returns:
            (n, d) float32, rows of unit length in the order of `texts`; (0, d) for no texts.

        Raises:
            ModelBusyError: The endpoint is overloaded or unreachable; retry later.
            ModelRefusedError: The endpoint refused, or answered with something that is no vector.
        """
        ...


class MiniLM:
    """all-MiniLM-L6-v2 in this process; make one with `open` and share it.

    Texts are cut at 256 tokens. Runs in threads, as many as it may use cores, so the event loop
    stays free; what is not urgent in such that give way.
    """

    def __init__(
        self, session: Session, tokenizer: Tokenizer, precision: str, threads: int
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._threads = threads
        self._hands = Hands(threads)
        self._quick = anyio.CapacityLimiter(threads)
        self.precision = precision

    @classmethod
    async def open(
        cls, cache: Path | None = None, *, precision: Precision = "auto", threads: int | None = None
    ) -> "MiniLM":
        """Load the model; the first start on a machine also builds its graph (about two seconds).

        Args:
            cache: Where the built graph is kept (59 MB); None means `~/.cache/blackboard`.
            precision: `auto` runs in 8 bits where that agrees with float32 and is not slower.
            threads: Cores used at once; None means all, at most four.

        Raises:
            SettingsError: The weights are missing or not the right ones, or the cache cannot be
                written; the text has the command to run.
        """
        where = cache or Path.home() / ".cache" / "blackboard"
        cores = threads or min(MOST_THREADS, os.cpu_count() or 1)
        return await anyio.to_thread.run_sync(cls._load, where, precision, cores)

    @classmethod
    def _load(cls, cache: Path, precision: Precision, threads: int) -> "MiniLM":
        directory = weights.model_directory()
        file = directory / "tokenizer.json"
        weights.check(file, weights.TOKENIZER_SHA256)
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)  # pyright: ignore[reportUnknownMemberType]
        session, kept = weights.load(directory, cache, precision)
        return cls(session, tokenizer, kept, threads)

    @property
    def name(self) -> str:
        """The model's published name; 8 bits and float32 are comparable, so they share it."""
        return "all-MiniLM-L6-v2"

    @property
    def dimensions(self) -> int:
        """Always 384."""
        return MINILM_DIMENSIONS

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> FloatArray:
        """Embed texts; see `Embedder.embed`. Never refuses, never busy."""
        vectors = np.empty((len(texts), MINILM_DIMENSIONS), dtype=np.float32)
        if urgent:
            await anyio.to_thread.run_sync(self._at_once, vectors, texts, limiter=self._quick)
            return vectors
        for start in range(0, len(texts), WINDOW):
            rows = vectors[start : start + WINDOW]
            window = texts[start : start + WINDOW]
            tokens = await self._hands.run(self._tokenize, window)
            async with anyio.create_task_group() as group:
                for hand in _dealt([len(ids) for ids in tokens], self._threads):
                    group.start_soon(self._hands.run, self._run, rows, tokens, hand)
        return vectors

    def _at_once(self, rows: FloatArray, texts: Sequence[str]) -> None:
        self._run(rows, self._tokenize(texts), range(len(texts)))

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        # A lone surrogate is legal in a Python string and a panic in the tokenizer.
        clean = [text[:MAX_CHARS].encode("utf-8", "replace").decode() for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(clean)]

    def _run(self, rows: FloatArray, tokens: list[list[int]], hand: Sequence[int]) -> None:
        for place in hand:
            ids = np.array([tokens[place]], dtype=np.int64)
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            rows[place] = self._session.run(None, feed)[0][0]


def _dealt(lengths: Sequence[int], threads: int) -> list[list[int]]:
    """Deal places to threads, longest texts first, so that all are done at about the same time."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    return [hand for first in range(threads) if (hand := order[first::threads])]


class EndpointEmbedder:
    """Any OpenAI-compatible `/v1/embeddings`; make one with `open`.

    Args:
        model: The client; its `embedding_name` is the model asked.
        dimensions: Numbers in a vector, as the endpoint gives them.
        batch: Texts in one request.
    """

    def __init__(self, model: Model, dimensions: int, *, batch: int = 128) -> None:
        self._model = model
        self._dimensions = dimensions
        self._batch = batch

    @classmethod
    async def open(cls, model: Model, *, batch: int = 128) -> "EndpointEmbedder":
        """Ask the endpoint for one vector, to learn how long they are.

        Raises:
            ModelBusyError: The endpoint is overloaded or unreachable; retry later.
            ModelRefusedError: It refused, or its answer is no vector.
        """
        vectors = await model.embed(["dimensions"])
        return cls(model, len(vectors[0]), batch=batch)

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self._model.embedding_name

    @property
    def dimensions(self) -> int:
        """As learned from the endpoint."""
        return self._dimensions

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> FloatArray:
        """Embed texts, `batch` in a request, one request after another; see `Embedder.embed`."""
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        for start in range(0, len(texts), self._batch):
            part = texts[start : start + self._batch]
            for row, vector in enumerate(await self._model.embed(part), start):
                vectors[row] = self._unit(vector)
        return vectors

    def _unit(self, vector: Sequence[float]) -> FloatArray:
        if len(vector) != self._dimensions:
            raise ModelRefusedError(
                f"{self.name!r} answered with a vector of {len(vector)} numbers instead of "
                f"{self._dimensions}; another model behind the same name needs a new index"
            )
        length = math.hypot(*vector)
        if not math.isfinite(length) or length == 0.0:
            raise ModelRefusedError(
                f"{self.name!r} answered with a vector that has no direction (length {length}); "
                "check the endpoint"
            )
        return (np.asarray(vector, dtype=np.float64) / length).astype(np.float32)
