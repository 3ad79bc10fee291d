"""A stand-in for an OpenAI-compatible endpoint that counts what comes through its door."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ModelStub:
    """What came to the endpoint.

    Attributes:
        url: Base URL for clients.
        seen: How often each conversation (roles and texts) was asked.
    """

    def __init__(
        self, url: str, status: Callable[[int], int], says: Callable[[str, str], str]
    ) -> None:
        self.url = url
        self._says = says
        self.seen: Counter[tuple[tuple[str, str], ...]] = Counter()
        self._status = status
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        """All requests, refused ones included."""
        return self.seen.total()

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Count a request and answer it."""
        messages = tuple((str(m["role"]), str(m["content"])) for m in body["messages"])
        with self._lock:
            self.seen[messages] += 1
            status = self._status(self.requests)
        if status != 200:
            return status, {"error": {"message": f"the stub says {status}", "type": "stub"}}
        text = self._says(messages[0][1], messages[-1][1])
        return 200, {
            "id": "stub",
            "object": "chat.completion",
            "model": "stub-model",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }


def summary(_system: str, prompt: str) -> str:
    """What the stub answers by default."""
    return f"Summary of {len(prompt)} characters."


@contextmanager
def model_stub(
    status: Callable[[int], int] = lambda _number: 200,
    says: Callable[[str, str], str] = summary,
) -> Generator[ModelStub]:
    """Serve until the block ends.

    Args:
        status: The HTTP status of each request, by its number, counted from 1.
        says: The answer to a system's and a user's message.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, answer = stub.answer(body)
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep standard error for failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub = ModelStub(f"http://127.0.0.1:{server.server_address[1]}/v1", status, says)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
