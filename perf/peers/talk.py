"""How a peer is spoken to: an order is a line of JSON on standard input, so is the answer.

This runs in the peers' own environment, which has nothing of this project, so it needs the standard
library and numpy only. Texts and vectors are read from the folder that the first argument names.
Times are taken here, so that no pipe is in them. A peer may talk to nobody meanwhile: connections
are refused, which keeps telemetry and downloads out of the figures whatever its settings say.
"""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Store(Protocol):
    """A peer, opened in a folder of its own."""

    def add(self, numbers: Sequence[int], texts: list[str], fields: list[dict[str, str]]) -> None:
        """Take texts in, in the way its own documentation shows."""
        ...

    def search(self, question: str, user: str | None, limit: int) -> list[str]:
        """The texts found, the best first; of one user, or of all."""
        ...

    def close(self) -> None:
        """Let go of its files."""
        ...


class Given:
    """What everybody is given.

    Attributes:
        pieces: Texts to be found.
        fields: Of each piece: `user` and `team`.
        questions: To find them by.
        vectors: Of all these texts, computed beforehand, for the embedding functions of the peers.
    """

    def __init__(self, folder: Path) -> None:
        told: dict[str, Any] = json.loads((folder / "given.json").read_text())
        self.pieces: list[str] = told["pieces"]
        self.fields: list[dict[str, str]] = told["fields"]
        self.questions: list[str] = told["questions"]
        rows: Any = np.load(folder / "vectors.npy")
        # Lists of floats are what the embedding clients of all peers give.
        self.vectors: dict[str, list[float]] = dict(
            zip(self.pieces + self.questions, rows.tolist(), strict=True)
        )


def run(open_store: Callable[[Path, dict[str, list[float]]], Store]) -> None:
    """Open the peer with a folder and the vectors, and do as told until nobody tells anything.

    It is tried before, so that one that does not work here is left out rather than ends the rest.

    Args:
        open_store: Imports the peer too, so that a failure is told as the reason.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        sys.stdout = sys.stderr  # what a peer prints is no answer
        logging.disable(logging.WARNING)
        sys.addaudithook(_stay_here)

        def say(value: object) -> None:
            answers.write(json.dumps(value) + "\n")
            answers.flush()

        folder, home = (Path(word) for word in json.loads(sys.argv[1])["folders"])
        given = Given(folder)
        try:
            _try(open_store, home / "trial", given)
            store = open_store(home / "store", given.vectors)
        except Exception as error:  # noqa: BLE001 - any of them is the reason why it is left out
            say({"failed": f"{type(error).__name__}: {error}"})
            return
        say({"ready": True})
        for line in sys.stdin:
            order: dict[str, Any] = json.loads(line)
            say(_added(store, given, **order) if "last" in order else _found(store, given, **order))
        store.close()


def _try(
    open_store: Callable[[Path, dict[str, list[float]]], Store], home: Path, given: Given
) -> None:
    store = open_store(home, given.vectors)
    try:
        store.add(range(2), given.pieces[:2], given.fields[:2])
        if sorted(store.search(given.questions[0], None, 2)) != sorted(given.pieces[:2]):
            raise RuntimeError("it does not find what was added")
    finally:
        store.close()


def _stay_here(event: str, arguments: tuple[Any, ...]) -> None:
    outside = event == "socket.connect" and arguments[0].family != socket.AF_UNIX
    if outside or event == "socket.getaddrinfo":
        raise ConnectionRefusedError("a measurement talks to nobody")


def _added(store: Store, given: Given, first: int, last: int) -> dict[str, float]:
    texts, fields = given.pieces[first:last], given.fields[first:last]
    began = time.perf_counter()
    store.add(range(first, last), texts, fields)
    return {"seconds": time.perf_counter() - began}


def _found(
    store: Store, given: Given, first: int, count: int, limit: int, user: str | None
) -> dict[str, Any]:
    times: list[float] = []
    found: list[list[str]] = []
    for number in range(first, first + count):
        question = given.questions[number % len(given.questions)]
        began = time.perf_counter()
        found.append(store.search(question, user, limit))
        times.append(1000 * (time.perf_counter() - began))
    return {"times": times, "found": found, "seconds": sum(times) / 1000}
