"""The embedders of a process, by name: one of each, opened when it is first needed."""

from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from blackboard.errors import SettingsError
from blackboard.models import Patience, open_model
from blackboard.recall.embed import Embedder, EndpointEmbedder, MiniLM
from blackboard.settings import Settings

MINILM = "all-MiniLM-L6-v2"
PATIENCE = Patience(attempts=2)
"""Who indexes tries again by itself, and who asks does not want to wait for that."""


class Embedders:
    """Opens embedders; an async context that closes their connections.

    Args:
        settings: Where the endpoint is.
        cache: Where the built graph of MiniLM is kept; None is `~/.cache/blackboard`.
    """

    def __init__(self, settings: Settings, cache: Path | None = None) -> None:
        self._settings = settings
        self._cache = cache
        self._open: dict[str, Embedder] = {}
        self._opening = anyio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Embedders":
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @property
    def wanted(self) -> str | None:
        """What the settings ask for; None leaves it to the index, and MiniLM for a new one."""
        return self._settings.embedding_model

    async def get(self, name: str) -> Embedder:
        """The embedder of that name.

        Raises:
            SettingsError: No endpoint is set that could have it, or MiniLM is not installed.
            ModelBusyError: The endpoint does not answer; again later.
            ModelRefusedError: The endpoint refuses, or has no such model.
        """
        async with self._opening:
            found = self._open.get(name)
            if found is None:
                found = self._open[name] = await self._opened(name)
            return found

    async def _opened(self, name: str) -> Embedder:
        if name == MINILM:
            return await MiniLM.open(self._cache)
        if self._settings.model_url is None:
            raise SettingsError(
                f"the embedder {name!r} needs an endpoint; set OPENAI_BASE_URL where the recall "
                f"service runs, or use {MINILM}: blackboard reindex --embedder {MINILM}"
            )
        opening = open_model(
            self._settings.model_url,
            key=self._settings.model_key,
            embedding_name=name,
            patience=PATIENCE,
        )
        model = await self._stack.enter_async_context(opening)
        return await EndpointEmbedder.open(model)
