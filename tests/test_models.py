import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import anyio
import numpy as np
import pytest

from blackboard.errors import ModelBusyError, ModelRefusedError, SettingsError
from blackboard.models import Model, Patience, open_model
from blackboard.recall.embed import EndpointEmbedder

QUICK = Patience(attempts=3, attempt_s=2.0, total_s=10.0, backoff_s=0.002)
Answer = tuple[int, dict[str, str], str]


class Endpoint(ThreadingHTTPServer):
    """A model server that answers from a script and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Answer] = []
        self.usual: Callable[[dict[str, Any]], Answer] = lambda _: chat("an answer")
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = 0
        self.most_at_once = 0
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = cast(Endpoint, self.server)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append({"path": self.path, **body})
            server.keys.append(self.headers["Authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            status, headers, text = server.script.pop(0) if server.script else server.usual(body)
        server.gate.wait(10)
        with server.lock:
            server.at_once -= 1
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def chat(text: str | None, *, finish: str = "stop", **message: object) -> Answer:
    answer = {
        "model": "stub-1",
        "choices": [{"message": {"content": text, **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }
    return 200, {}, json.dumps(answer)


def ok(text: str, **headers: str) -> Answer:
    return 200, headers, text


def failure(status: int, message: str = "no", *, code: str = "", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": {"message": message, "code": code}})


def vectors(*rows: list[float], order: list[int] | None = None) -> Answer:
    places = order or list(range(len(rows)))
    data = [{"index": place, "embedding": row} for place, row in zip(places, rows, strict=True)]
    return 200, {}, json.dumps({"data": data})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


def connect(endpoint: Endpoint, **options: Any) -> AbstractAsyncContextManager[Model]:
    given: dict[str, Any] = {"name": "stub", "patience": QUICK, **options}
    return open_model(endpoint.url, **given)


async def test_a_completion_tells_text_model_tokens_and_requests(endpoint: Endpoint):
    async with connect(endpoint, key="secret") as model:
        done = await model.complete("why?", system="be brief", max_tokens=50)

    assert (done.text, done.model, done.tokens_in, done.tokens_out) == (
        "an answer",
        "stub-1",
        11,
        7,
    )
    assert (done.cost.tokens, done.cost.calls, done.retries) == (18, 1, 0)
    assert endpoint.asked == [
        {
            "path": "/v1/chat/completions",
            "model": "stub",
            "max_tokens": 50,
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "why?"},
            ],
        }
    ]
    assert endpoint.keys == ["Bearer secret"]


async def test_without_a_key_a_placeholder_is_sent(endpoint: Endpoint):
    async with connect(endpoint) as model:
        await model.complete("why?")

    assert endpoint.keys == ["Bearer none"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_a_busy_endpoint_is_asked_again_and_each_request_is_counted(
    endpoint: Endpoint, status: int
):
    endpoint.script = [failure(status), failure(status)]

    async with connect(endpoint) as model:
        done = await model.complete("why?")

    assert (done.retries, done.cost.calls, len(endpoint.asked)) == (2, 3, 3)


async def test_an_endpoint_that_stays_busy_ends_in_a_retryable_error(endpoint: Endpoint):
    endpoint.usual = lambda _: failure(503, "overloaded")

    async with connect(endpoint) as model:
        with pytest.raises(ModelBusyError, match=r"503.*overloaded"):
            await model.complete("why?")

    assert len(endpoint.asked) == QUICK.attempts


async def test_a_short_retry_after_is_waited_out(endpoint: Endpoint):
    endpoint.script = [failure(429, retry_after_ms="300")]

    async with connect(endpoint) as model:
        done = await model.complete("why?")

    assert done.retries == 1
    assert done.seconds >= 0.3


@pytest.mark.parametrize("wish", ["3600", formatdate(4_000_000_000, usegmt=True)])
async def test_a_long_retry_after_is_left_to_the_caller(endpoint: Endpoint, wish: str):
    endpoint.script = [failure(429, retry_after=wish)]

    async with connect(endpoint) as model:
        with pytest.raises(ModelBusyError) as caught:
            await model.complete("why?")

    assert caught.value.after_s is not None
    assert caught.value.after_s >= 3600
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (failure(400, "bad prompt"), "400.*bad prompt"),
        (failure(401, "wrong key"), "OPENAI_API_KEY"),
        (failure(404, "no such model"), "no such model"),
        (failure(429, "pay first", code="insufficient_quota"), "pay first"),
        (chat(None), "nothing"),
        (chat("  \n"), "nothing"),
        (chat("half", finish="content_filter"), "refused"),
        (chat(None, refusal="I will not"), "I will not"),
        (ok('{"choices": []}'), "without a choice"),
        (ok('{"choices": "many"}'), "no answer"),
        (ok("{}"), "no answer"),
        (ok('{"choices": [{"mess'), "no answer"),
        (ok("<html>hello</html>", **{"Content-Type": "text/html"}), "OPENAI_BASE_URL"),
        (ok(""), "no answer"),
    ],
)
async def test_a_refusal_or_garbage_is_final_and_asked_once(
    endpoint: Endpoint, answer: Answer, said: str
):
    endpoint.usual = lambda _: answer

    async with connect(endpoint) as model:
        with pytest.raises(ModelRefusedError, match=said):
            await model.complete("why?")

    assert len(endpoint.asked) == 1


async def test_a_model_that_knows_the_limit_by_its_newer_name_gets_it_so(endpoint: Endpoint):
    endpoint.script = [failure(400, "Unsupported 'max_tokens'; use 'max_completion_tokens'")]

    async with connect(endpoint) as model:
        first = await model.complete("why?", max_tokens=5)
        second = await model.complete("why?", max_tokens=5)

    assert (first.retries, second.retries) == (1, 0)
    assert [asked.get("max_completion_tokens") for asked in endpoint.asked] == [None, 5, 5]
    assert "max_tokens" not in endpoint.asked[1]


async def test_an_endpoint_that_does_not_answer_hits_the_time_limit(endpoint: Endpoint):
    endpoint.gate.clear()

    async with connect(endpoint, patience=Patience(attempts=1, attempt_s=0.2)) as model:
        with pytest.raises(ModelBusyError, match=r"within 0\.2 s"):
            await model.complete("why?")


async def test_the_limit_of_a_call_covers_all_its_requests(endpoint: Endpoint):
    endpoint.usual = lambda _: failure(503)
    patience = Patience(attempts=1000, total_s=0.3, backoff_s=0.01)

    async with connect(endpoint, patience=patience) as model:
        with anyio.fail_after(5), pytest.raises(ModelBusyError, match=r"within 0\.3 s"):
            await model.complete("why?")


async def test_an_endpoint_that_is_not_there_is_busy(endpoint: Endpoint):
    with Endpoint() as closed:
        url = closed.url

    async with open_model(url, patience=QUICK) as model:
        with pytest.raises(ModelBusyError, match=r"no connection.*is it running"):
            await model.complete("why?")


async def test_no_more_calls_than_allowed_are_at_the_endpoint(endpoint: Endpoint):
    async with connect(endpoint, concurrency=2) as model, anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(model.complete, "why?")

    assert len(endpoint.asked) == 12
    assert 1 <= endpoint.most_at_once <= 2


async def test_an_address_that_is_none_is_a_settings_error():
    with pytest.raises(SettingsError, match="OPENAI_BASE_URL"):
        async with open_model("localhost:11434/v1"):
            pass


async def test_vectors_come_in_the_order_of_the_texts_and_at_unit_length(endpoint: Endpoint):
    endpoint.script = [vectors([3.0, 4.0]), vectors([0.0, 2.0], [5.0, 0.0], order=[1, 0])]

    async with connect(endpoint, embedding_name="small") as model:
        embedder = await EndpointEmbedder.open(model)
        found = await embedder.embed(["one", "two"])

    assert (embedder.name, embedder.dimensions) == ("small", 2)
    assert found.dtype == np.float32
    assert found.tolist() == [[1.0, 0.0], [0.0, 1.0]]


async def test_texts_are_sent_in_batches_and_none_cost_no_request(endpoint: Endpoint):
    endpoint.usual = lambda asked: vectors(*([1.0, 0.0] for _ in asked["input"]))

    async with connect(endpoint) as model:
        embedder = EndpointEmbedder(model, 2, batch=3)
        nothing = await embedder.embed([])
        found = await embedder.embed([str(number) for number in range(7)])

    assert (nothing.shape, found.shape) == ((0, 2), (7, 2))
    assert [len(asked["input"]) for asked in endpoint.asked] == [3, 3, 1]


@pytest.mark.parametrize(
    "answer",
    [
        vectors([1.0, 0.0]),
        vectors([1.0, 0.0], [1.0]),
        vectors([1.0, 0.0], [1.0, 0.0], order=[0, 0]),
        vectors([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        vectors([0.0, 0.0], [1.0, 0.0]),
        vectors([], []),
        ok('{"data": [{"index": 0, "embedding": [NaN, 1]}, {"index": 1, "embedding": []}]}'),
        ok('{"data": [{"index": 0, "embedding": "AAAA"}]}'),
        vectors([1.7e308, 1.7e308], [1.0, 0.0]),
    ],
)
async def test_an_answer_that_is_no_vector_is_refused(endpoint: Endpoint, answer: Answer):
    endpoint.usual = lambda _: answer

    async with connect(endpoint) as model:
        with pytest.raises(ModelRefusedError):
            await EndpointEmbedder(model, 2).embed(["one", "two"])
