"""The model's door: every request is counted before it is made.

One line goes to the file `FLOCK_DOOR` before each request and one after it, each by a single write
to a file opened for appending, so lines of many processes do not mix, and a killed one's stay.
Retries pass the door again: they are made here and nowhere else. The extractive summariser passes
it in the same way, so that both are counted by the same rule.
"""

import hashlib
import json
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from blackboard.errors import ModelBusyError, ModelRefusedError
from blackboard.messages import Cost, Memory

ATTEMPTS = 5
LONGEST_PAUSE_S = 30.0


class Door:
    """Counts and paces the calls of this process.

    Args:
        file: Where the calls are written down; None keeps no count.
        team: On whose behalf.
        pace_s: What each call takes at least. For watching only: the demo sets it when it wants to
            kill a process that has calls under way, and prints that it did.
    """

    def __init__(self, file: Path | None, team: str, pace_s: float = 0.0) -> None:
        self._team = team
        self._pace_s = pace_s
        self._calls = 0
        self._file = None
        if file is not None:
            self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def ask(self, call: Callable[[], Awaitable[Memory]], prompt: str, section: str) -> Memory:
        """Make one call, again while the model is busy, and count every request.

        Args:
            call: Makes exactly one request.
            prompt: The instructions.
            section: The text they are about.

        Raises:
            ModelBusyError: Still busy after five attempts.
            ModelRefusedError: The model will not answer this.
        """
        for attempt in range(1, ATTEMPTS + 1):
            record = self._made(prompt, section)
            try:
                await anyio.sleep(self._pace_s)
                answer = await call()
            except ModelBusyError as error:
                self._write({**record, "event": "failed", "error": str(error)})
                if attempt == ATTEMPTS:
                    raise
                await anyio.sleep(_pause(error.after_s, attempt))
            except ModelRefusedError as error:
                self._write({**record, "event": "failed", "error": str(error), "final": True})
                raise
            else:
                cost = answer.cost or Cost()
                self._write({**record, "event": "answered", "tokens": cost.tokens})
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _made(self, prompt: str, section: str) -> dict[str, object]:
        self._calls += 1
        record: dict[str, object] = {
            "call": f"{os.getpid()}-{self._calls}",
            "event": "made",
            "pid": os.getpid(),
            "team": self._team,
            "prompt": _digest(prompt),
            "section": _digest(section),
        }
        self._write(record)
        return record

    def _write(self, record: dict[str, object]) -> None:
        if self._file is not None:
            os.write(self._file, json.dumps(record).encode() + b"\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pause(wished_s: float | None, attempt: int) -> float:
    if wished_s is not None:
        return min(wished_s, LONGEST_PAUSE_S)
    return random.SystemRandom().uniform(0.25, 0.5) * 2**attempt
