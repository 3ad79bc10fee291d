"""What the broker refused, from its own log: nothing else says so, for refused messages go nowhere.

The log is followed by bytes, and how far it was read stands in the chain like any other position.
A log that was cut in place (the local stack does so, keeping one older part beside it) is read on
from that part, then from its beginning.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blackboard.ledger.items import AnyItem, Denied, Gap
from blackboard.ledger.record import Position

MOST_BYTES = 4 * 1024 * 1024
"""Read at once."""
MOST_KINDS = 500
"""Different refusals in one record; more are counted together."""
# The first quoted part holds what the client calls itself, with quotes escaped; the second is the
# broker's word. Taken apart strictly, so that nobody can speak of himself as another.
TIME = "%Y/%m/%d %H:%M:%S"
"""As the broker writes it: in its own time zone, which is taken to be this process's too."""
_LINE = re.compile(
    rb"\[\d+\] (?P<time>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)\S* \[ERR\] \S+ - \w+:\d+ - "
    rb'(?:"(?:[^"\\]|\\.)*" - )?"[^"/\\]*/(?P<how>[a-z]+):(?P<who>[^"\\]*)" - '
    rb"(?P<act>Publish|Subscription) Violation(?: Too Many Tokens)? - (?P<part>Subject|Reply) "
    rb'"(?P<what>(?:[^"\\]|\\.)*)"'
)


@dataclass(slots=True)
class Violations:
    """The refusals in one broker's log.

    Args:
        path: The log.
        name: Of this source, in the chain's positions.
        agent_of: Who holds a credential; None for those who are not on this board.
    """

    path: Path
    name: str
    agent_of: Callable[[str], str | None]
    _position: Position | None = None
    _until: Position | None = None
    _found: list[AnyItem] | None = None

    def learn(self, positions: dict[str, Position]) -> None:
        """Go on behind what the chain says."""
        found = positions.get(self.name)
        if found is not None:
            self._position = found
        self._found = None

    def news(self) -> tuple[list[AnyItem], Position] | None:
        """The refusals since the position, and how far that is; None when there are none."""
        if self._found and self._until is not None:
            return self._found, self._until
        return None

    def look(self) -> None:
        """Read what is new; blocks for as long as 4 MiB take.

        Raises:
            OSError: The log cannot be read.
        """
        if self._found:
            return
        data, until, items = self._read()
        items += self._refusals(data)
        self._until = until
        if items:
            self._found = items
        else:
            self._position = until  # nothing to say, so nothing to keep

    def _read(self) -> tuple[bytes, Position, list[AnyItem]]:
        items: list[AnyItem] = []
        with self.path.open("rb") as log:
            source = _source(log.read(64))
            size = log.seek(0, 2)
            known = self._position
            begin = 0
            rest = b""
            if known is not None and known.source == source and known.sequence <= size:
                begin = known.sequence
            elif known is not None:
                rest, gap = self._rest(known)
                items += gap
            log.seek(begin)
            data = log.read(MOST_BYTES)
        data = data[: data.rfind(b"\n") + 1]
        return rest + data, Position(source, begin + len(data)), items

    def _rest(self, known: Position) -> tuple[bytes, list[AnyItem]]:
        """What the older part has behind a position."""
        try:
            with self.path.with_suffix(".log.1").open("rb") as older:
                if _source(older.read(64)) == known.source:
                    older.seek(known.sequence)
                    return older.read(), []
        except OSError:
            pass
        reason = "the broker's log was cut before a steward had read it"
        return b"", [Gap(about="log", reason=reason)]

    def _refusals(self, data: bytes) -> list[AnyItem]:
        found: dict[tuple[str, str, str], Denied] = {}
        for line in data.splitlines():
            if b"Violation" not in line:
                continue
            match = _LINE.match(line)
            if match is None:
                continue
            key, at = self._key(match)
            if key is None:
                continue
            if key not in found and len(found) >= MOST_KINDS:
                key = (key[0], "…", "more than can be listed")
            known = found.get(key)
            found[key] = Denied(
                agent=key[0],
                act=key[1],
                what=key[2],
                by="broker",
                first=at if known is None else known.first,
                last=at,
                count=1 if known is None else known.count + 1,
            )
        return list(found.values())

    def _key(self, match: re.Match[bytes]) -> tuple[tuple[str, str, str] | None, datetime]:
        who = match["who"].decode(errors="replace")
        at = datetime.strptime(match["time"].decode(), TIME).astimezone(UTC)
        agent = self.agent_of(who)
        if agent is None:
            return None, at
        act = "publish" if match["act"] == b"Publish" else "subscribe"
        if match["part"] == b"Reply":
            act = "reply"
        return (agent, act, match["what"].decode(errors="replace")), at


def _source(head: bytes) -> str:
    """Tells a log from the one before: each begins with a line of its own."""
    return head.split(b"\n")[0].decode("latin-1")[:64]
