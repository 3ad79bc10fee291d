"""Asks models: any OpenAI-compatible endpoint, and the only importer of `openai`.

The SDK's own retries are off. A retry is a request at the model's door, and what sharing saves is
counted there, so every one of them is made, bounded and counted here. Answers are decoded by the
structs below instead of the SDK's types, which take whatever a server sends: an answer that is no
answer has to become an error here, not an `AttributeError` in an agent.
"""

import email.utils
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
import msgspec

from blackboard.errors import ModelBusyError, ModelRefusedError, SettingsError
from blackboard.messages import Cost

if TYPE_CHECKING:
    import openai

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)

MAX_WAIT_S = 30.0
"""Longest pause before a retry; an endpoint that asks for more gets `ModelBusyError` instead."""
BUSY_STATUSES = frozenset({408, 409, 425, 429})
NO_KEY = "none"
"""Sent when there is no key: local servers want the header, not what is in it."""
_SCHEMA = re.compile("response_format|json_schema|schema", re.IGNORECASE)
INSTALL = "python -m pip install 'blackboard-agents[models]'"


class Completion(msgspec.Struct, frozen=True):
    """What a model answered, and what it took."""

    text: str
    model: str
    """As the endpoint names it, else as it was asked for."""
    tokens_in: int
    tokens_out: int
    """From the endpoint's own usage; both 0 when it reports none."""
    seconds: float
    """From the first request to the answer, pauses between retries included."""
    retries: int
    """Requests beyond the first."""

    @property
    def cost(self) -> Cost:
        """The same figures as a memory carries them."""
        tokens = self.tokens_in + self.tokens_out
        return Cost(self.model, tokens, self.seconds, calls=1 + self.retries)


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how often an endpoint is tried."""

    attempts: int = 5
    attempt_s: float = 60.0
    """Limit of one request."""
    total_s: float = 180.0
    """Limit of a call, all its requests and pauses included."""
    backoff_s: float = 0.5
    """Pause before the first retry, doubled each time; the pause taken is 50 to 100 % of it."""


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chat(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    model: str | None = None


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int


class _Vectors(msgspec.Struct):
    data: list[_Vector]


class _Raw(Protocol):
    @property
    def content(self) -> bytes: ...


class Model:
    """A client of one endpoint; make one with `open_model`.

    Calls may run at the same time; at most `concurrency` of them are at the endpoint.
    """

    def __init__(
        self,
        client: "openai.AsyncOpenAI",
        *,
        name: str,
        embedding_name: str,
        concurrency: int,
        patience: Patience,
    ) -> None:
        self._client = client
        self._slots = anyio.Semaphore(concurrency)
        self._patience = patience
        # Newer models take the limit only under its second name; the first refusal tells.
        self._limit_name = "max_tokens"
        # Not every endpoint takes a schema; one that refuses it is asked without from then on.
        self._takes_schema = True
        self.name = name
        self.embedding_name = embedding_name

    async def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        schema: type[msgspec.Struct] | None = None,
    ) -> Completion:
        """Ask for one completion.

        Args:
            prompt: The user's message.
            system: The system's message, before it.
            max_tokens: Limit of the answer; None leaves it to the endpoint.
            schema: What the answer shall be, as JSON. Endpoints are told, where they can be; what
                they answer has to be checked all the same, and the prompt has to say it too.

        Raises:
            ModelBusyError: Overloaded, unreachable or too slow after all attempts; retry later.
            ModelRefusedError: The endpoint will not answer this, or its answer is none.
        """
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})

        async def ask() -> _Raw:
            limit = {} if max_tokens is None else {self._limit_name: max_tokens}
            body: dict[str, object] = {"model": self.name, "messages": messages, **limit}
            if schema is not None and self._takes_schema:
                body["response_format"] = _format_of(schema)
            # `extra_body` replaces the typed arguments, so that no vendor type is spelt out here.
            return await self._client.chat.completions.with_raw_response.create(
                model=self.name, messages=[], extra_body=body
            )

        answer, seconds, retries = await self._call(ask, _Chat)
        usage = answer.usage or _Usage()
        return Completion(
            text=_text_of(answer),
            model=answer.model or self.name,
            tokens_in=usage.prompt_tokens,
            tokens_out=usage.completion_tokens,
            seconds=seconds,
            retries=retries,
        )

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Ask for the vectors of some texts, in one request.

        Args:
            texts: As many as the endpoint takes at once; none gives none without a request.

        Returns:
            One vector a text, in the same order, all of one length; not normalised.

        Raises:
            ModelBusyError: Overloaded, unreachable or too slow after all attempts; retry later.
            ModelRefusedError: The endpoint will not answer this, or its answer is none.
        """
        if not texts:
            return []

        async def ask() -> _Raw:
            return await self._client.embeddings.with_raw_response.create(
                model=self.embedding_name, input=list(texts), encoding_format="float"
            )

        answer, _, _ = await self._call(ask, _Vectors)
        vectors = {item.index: item.embedding for item in answer.data}
        lengths = {len(vector) for vector in vectors.values()}
        whole = len(answer.data) == len(texts) and sorted(vectors) == list(range(len(texts)))
        if not whole or len(lengths) != 1 or 0 in lengths:
            raise ModelRefusedError(
                f"{self.embedding_name!r} answered {len(texts)} texts with {len(answer.data)} "
                f"vectors of lengths {sorted(lengths)}; check that it is an embedding model"
            )
        return [vectors[place] for place in range(len(texts))]

    async def _call(
        self, ask: Callable[[], Awaitable[_Raw]], kind: type[AnswerT]
    ) -> tuple[AnswerT, float, int]:
        """Call until there is an answer; return it with the seconds and retries it took."""
        async with self._slots:
            start = time.perf_counter()
            try:
                with anyio.fail_after(self._patience.total_s):
                    raw, retries = await self._persist(ask)
            except TimeoutError as error:
                raise ModelBusyError(
                    f"the model gave no answer within {self._patience.total_s:g} s; retry later"
                ) from error
            seconds = time.perf_counter() - start
        try:
            return msgspec.json.decode(raw.content, type=kind), seconds, retries
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelRefusedError(
                f"the model endpoint sent something that is no answer ({error}): "
                f"{raw.content[:100]!r}; check that OPENAI_BASE_URL ends where the API begins "
                "(often /v1)"
            ) from error

    async def _persist(self, ask: Callable[[], Awaitable[_Raw]]) -> tuple[_Raw, int]:
        for retries in range(self._patience.attempts):
            try:
                return await self._attempt(ask), retries
            except ModelBusyError as error:
                pause = error.after_s
                if retries + 1 == self._patience.attempts or (pause or 0.0) > MAX_WAIT_S:
                    raise
                if pause is None:
                    most = min(self._patience.backoff_s * 2**retries, MAX_WAIT_S)
                    # Callers that failed together must not come back together.
                    pause = random.SystemRandom().uniform(most / 2, most)
            await anyio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, ask: Callable[[], Awaitable[_Raw]]) -> _Raw:
        import openai  # noqa: PLC0415 - 350 ms that only those who ask a model shall pay

        try:
            with anyio.fail_after(self._patience.attempt_s):
                return await ask()
        except TimeoutError as error:
            raise ModelBusyError(
                f"the model gave no answer within {self._patience.attempt_s:g} s; retry later"
            ) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise ModelBusyError(
                f"no connection to the model at {str(self._client.base_url)!r} ({cause}); "
                "is it running?"
            ) from error
        except openai.APIStatusError as error:
            raise self._verdict(error) from error
        except openai.OpenAIError as error:
            raise ModelRefusedError(f"the model client gave up ({error})") from error

    def _verdict(self, error: "openai.APIStatusError") -> ModelBusyError | ModelRefusedError:
        status = error.status_code
        said = f"the model endpoint answered {status}: {error.message[:300]}"
        if status == 400 and self._limit_name == "max_tokens" and "max_completion" in said:
            self._limit_name = "max_completion_tokens"
            return ModelBusyError(said, after_s=0.0)
        if status == 400 and self._takes_schema and _SCHEMA.search(said):
            self._takes_schema = False
            return ModelBusyError(said, after_s=0.0)
        if (status in BUSY_STATUSES or status >= 500) and error.code != "insufficient_quota":
            headers = error.response.headers
            return ModelBusyError(
                f"{said}; retry later",
                after_s=_pause(headers.get("retry-after-ms"), headers.get("retry-after")),
            )
        hint = "; check OPENAI_API_KEY" if status in {401, 403} else ""
        return ModelRefusedError(said + hint)


@asynccontextmanager
async def open_model(
    url: str,
    *,
    key: str | None = None,
    name: str = "gpt-4o-mini",
    embedding_name: str | None = None,
    concurrency: int = 8,
    patience: Patience | None = None,
) -> AsyncGenerator[Model]:
    """Connect to an OpenAI-compatible endpoint; nothing is sent before the first call.

    Args:
        url: Where the API begins, for example `http://localhost:11434/v1` for Ollama.
        key: Sent as bearer token; None sends a placeholder, as local servers expect.
        name: The model asked by `complete`.
        embedding_name: The model asked by `embed`; None means text-embedding-3-small.
        concurrency: Calls at the endpoint at the same time; further ones wait.
        patience: Attempts and time limits; None takes the defaults.

    Raises:
        SettingsError: `url` is no URL, or the extra `models` is not installed.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"OPENAI_BASE_URL={url!r} is no http(s) address")
    try:
        import openai  # noqa: PLC0415 - see `_attempt`
    except ImportError as error:
        raise SettingsError(f"asking a model needs the openai package; run: {INSTALL}") from error
    limits = patience or Patience()
    async with openai.AsyncOpenAI(
        base_url=url, api_key=key or NO_KEY, max_retries=0, timeout=limits.attempt_s
    ) as client:
        yield Model(
            client,
            name=name,
            embedding_name=embedding_name or "text-embedding-3-small",
            concurrency=concurrency,
            patience=limits,
        )


def _format_of(schema: type[msgspec.Struct]) -> dict[str, object]:
    (tree,), parts = msgspec.json.schema_components([schema], ref_template="#/$defs/{name}")
    described = {**parts.pop(schema.__name__, tree), "$defs": parts}
    named = {"name": schema.__name__.strip("_").lower(), "schema": described}
    return {"type": "json_schema", "json_schema": named}


def _text_of(answer: _Chat) -> str:
    choice = answer.choices[0] if answer.choices else None
    if choice is None:
        raise ModelRefusedError("the model answered without a choice; check the endpoint")
    if choice.message.refusal or choice.finish_reason == "content_filter":
        reason = choice.message.refusal or "content filter"
        raise ModelRefusedError(f"the model refused ({reason}); change the prompt")
    text = (choice.message.content or "").strip()
    if not text:
        raise ModelRefusedError(
            f"the model answered with nothing (finish reason {choice.finish_reason!r}); "
            "allow more tokens or change the prompt"
        )
    return text


def _pause(milliseconds: str | None, after: str | None) -> float | None:
    """Seconds to wait as a server asks for; None when it does not, or not understandably."""
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        if after is None:
            return None
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after or "").timestamp() - time.time())
    except ValueError:
        return None
