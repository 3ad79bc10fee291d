"""The calls that went through the model's door, as the summarizers logged them.

Each summarizer appends one line before it makes a request and one when the answer is there, each by
a single write to a file opened for appending. What a process wrote survives its `kill -9`, so a
request that was under way in a killed process is a line without an end: it counts as made.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log: a request about to be made, or what became of it."""

    call: str
    """Name of the request, the same in both of its lines."""
    event: str
    """`made`, `answered` or `failed`."""
    pid: int
    team: str
    prompt: str
    """Digest of the instructions."""
    section: str
    """Digest of the section's text."""
    tokens: int = 0
    error: str = ""
    final: bool = False
    """A failure that no retry will mend."""


@dataclass(frozen=True, slots=True)
class Count:
    """What one look at the log says; subtract an earlier one to see what happened since."""

    made: int
    distinct: int
    tokens: int


class Calls:
    """Reads the log as it grows.

    Attributes:
        file: Where the summarizers write; need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: list[Line] = []
        self._read = 0

    @property
    def answered(self) -> int:
        """Requests that got an answer."""
        return len(self._of("answered"))

    def look(self) -> None:
        """Read what is new."""
        try:
            with self.file.open("rb") as log:
                log.seek(self._read)
                new = log.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self._lines += [_decoder.decode(line) for line in whole.splitlines()]

    def count(self) -> Count:
        """Requests made, retries included; different pairs of prompt and section; tokens used."""
        made = self._of("made")
        return Count(
            made=len(made),
            distinct=len({(line.prompt, line.section) for line in made}),
            tokens=sum(line.tokens for line in self._of("answered")),
        )

    def open(self, pids: Iterable[int]) -> list[Line]:
        """Requests of these processes that have no answer."""
        ended = {line.call for line in self._lines if line.event != "made"}
        wanted = set(pids)
        return [line for line in self._of("made") if line.pid in wanted and line.call not in ended]

    def refused(self) -> str | None:
        """The first error after which trying again is no use; None when there was none."""
        return next((line.error for line in self._of("failed") if line.final), None)

    def failing(self) -> str | None:
        """The newest error, if no request was answered since; None when all is well."""
        ended = [line for line in self._lines if line.event != "made"]
        return ended[-1].error if ended and ended[-1].event == "failed" else None

    def _of(self, event: str) -> list[Line]:
        return [line for line in self._lines if line.event == event]


_decoder = msgspec.json.Decoder(Line)
