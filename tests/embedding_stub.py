"""A stand-in for an OpenAI-compatible `/v1/embeddings`, which a test can slow down or break.

Its vectors are hashed words, so texts that share words are near each other. Their length is in the
model's name: `bow-64` gives 64 numbers.
"""

import json
import math
import re
import threading
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EmbeddingStub:
    """The endpoint.

    Attributes:
        url: Base URL for clients.
        held: Texts that contain this word wait until it is None again.
        refused: Requests with a text that contains this word are refused (400).
        status: Answered to everything, unless it is 200.
        garbage: Answered to everything instead of vectors.
        requests: How many came.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.held: str | None = None
        self.refused: str | None = None
        self.status = 200
        self.garbage: Any = None
        self.requests = 0
        self.waiting = threading.Event()
        self._change = threading.Condition()
        self._released = 0

    def release(self) -> None:
        """Let go what is held."""
        with self._change:
            self.held = None
            self._released += 1
            self.waiting.clear()
            self._change.notify_all()

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Answer one request."""
        texts: list[str] = body["input"]
        self.requests += 1
        with self._change:
            held, before = self.held, self._released
            if held is not None and any(held in text for text in texts):
                self.waiting.set()
                self._change.wait_for(lambda: self._released > before)
        if self.status != 200:
            return self.status, {"error": {"message": "the stub is broken", "type": "stub"}}
        if self.refused is not None and any(self.refused in text for text in texts):
            return 400, {"error": {"message": "the stub does not like that", "type": "stub"}}
        if self.garbage is not None:
            return 200, self.garbage
        dimensions = int(body["model"].rsplit("-", 1)[-1])
        data = [
            {"object": "embedding", "index": place, "embedding": embedded(text, dimensions)}
            for place, text in enumerate(texts)
        ]
        return 200, {"object": "list", "data": data, "model": body["model"], "usage": {}}


def embedded(text: str, dimensions: int) -> list[float]:
    """The words of a text as a vector of unit length."""
    vector = [0.01] * dimensions
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % dimensions] += 1.0
    length = math.hypot(*vector)
    return [one / length for one in vector]


@contextmanager
def embedding_stub() -> Generator[EmbeddingStub]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, answer = stub.answer(body)
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            try:
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:
                return  # whoever asked was killed meanwhile

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep standard error for failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub = EmbeddingStub(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        stub.release()
        server.shutdown()
        thread.join()
        server.server_close()
