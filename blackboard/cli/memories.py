"""Commands that put, show and follow memories."""

import re
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
import anyio.to_thread
import msgspec
from cyclopts import Parameter

from blackboard.cli.output import as_tree, line, say, say_json, show, warn
from blackboard.cli.place import HERE, WRITE_HERE, Place, WritingPlace, opened
from blackboard.codec import Json
from blackboard.errors import InvalidError
from blackboard.messages import Memory
from blackboard.subjects import Pattern, Ref, check_topic
from blackboard.times import parse_duration, parse_point, parse_since, parse_time

STDIN = "-"
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*(=.*)?\Z", re.DOTALL)
"""Standard input is named by a hyphen, so a mistyped option would count as content."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Fields:
    """What a memory says beside its content.

    Attributes:
        key: Put the next revision of the shared state at this key.
        expected: With --key: the revision that must be the newest; 0 means absent.
        kind: note, or a word of your own.
        tag: NAME=VALUE; may be given several times.
        session: The job or conversation it belongs to.
        user: The data subject, for erasure.
        ttl: How long it lives, like 7d, 12h or 30s.
        priority: 0 to 1.
        source: A reference it was made from; may be given several times.
        access: The access label.
    """

    key: str | None = None
    expected: int | None = None
    kind: str | None = None
    tag: tuple[str, ...] = ()
    session: str | None = None
    user: str | None = None
    ttl: str | None = None
    priority: float | None = None
    source: tuple[str, ...] = ()
    access: str | None = None

    def parsed(self) -> dict[str, Any]:
        """The arguments of `Blackboard.put` that they stand for.

        Raises:
            InvalidError: One of them cannot be read.
        """
        return {
            "key": self.key,
            "expected": self.expected,
            "kind": self.kind,
            "tags": dict(parse_tag(pair) for pair in self.tag) or None,
            "session": self.session,
            "user": self.user,
            "ttl": None if self.ttl is None else parse_duration(self.ttl, "--ttl"),
            "priority": self.priority,
            "sources": [Ref.parse(reference) for reference in self.source],
            "access": self.access,
        }


NO_FIELDS = Fields()


async def put(
    topic: str,
    content: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    text: bool = False,
    fields: Fields = NO_FIELDS,
    place: WritingPlace = WRITE_HERE,
) -> None:
    """Put a memory on the board and print its reference.

    Args:
        topic: Tokens joined by dots, like reports.q3.
        content: JSON, or any other text as it is; - reads standard input.
        text: Take the content as text, even when it is valid JSON.
        fields: What else it says.
        place: The board.
    """
    check_topic(topic)
    given = fields.parsed()
    if _OPTION.match(content):
        raise InvalidError(
            f"unknown option {content!r}; see `blackboard put --help`, or, if this is content, "
            "pipe it: … | blackboard put TOPIC -"
        )
    value = _value(await _standard_input() if content == STDIN else content, text=text)
    async with opened(place, agent=place.agent, create=True) as board:
        ref = await board.put(topic, value, **given)
    if place.as_json:
        say_json({"ref": str(ref), "revision": ref.written, "pinned": str(ref.pinned())})
    else:
        say(str(ref.pinned()))


async def get(reference: str, /, *, at: str | None = None, place: Place = HERE) -> None:
    """Show a memory: the newest revision, a pinned one, or as of a time.

    Args:
        reference: AGENT/TOPIC/ID or */TOPIC/KEY, optionally followed by @REVISION.
        at: As of a time, like 2026-11-20T09:30:00Z, or so long ago, like 10m.
        place: The board.
    """
    ref = Ref.parse(reference)
    moment = None if at is None else parse_time(at, "--at")
    async with opened(place) as board:
        memory = await board.get(ref, at=moment)
    if place.as_json:
        say_json(as_tree(memory))
    else:
        show(memory)


async def watch(
    pattern: str,
    /,
    *,
    since: str | None = None,
    limit: int | None = None,
    place: Place = HERE,
) -> None:
    """Follow the memories under a pattern, one line each.

    Args:
        pattern: Like 'reports.>': * is one token, a last > zero or more.
        since: Show history first: start, a time, how long ago (10m), or a revision.
        limit: End after so many.
        place: The board.
    """
    _check_limit(limit)
    Pattern.parse(pattern)
    begin = None if since is None else parse_since(since)
    seen = 0
    async with opened(place) as board, board.watch(pattern, begin) as memories:
        async for memory in memories:
            _tell(memory, place)
            seen += 1
            if seen == limit:
                return


async def replay(
    pattern: str,
    /,
    *,
    since: str = "start",
    until: str | None = None,
    speed: float | None = None,
    limit: int | None = None,
    place: Place = HERE,
) -> None:
    """Show the past under a pattern, in order, up to now.

    Args:
        pattern: Like 'reports.>': * is one token, a last > zero or more.
        since: start, a time, how long ago (2d), or a revision.
        until: A time, how long ago, or a revision; inclusive.
        speed: 1 keeps the original pace, 60 is a minute a second; by default at once.
        limit: End after so many.
        place: The board.
    """
    _check_limit(limit)
    Pattern.parse(pattern)
    begin = parse_since(since)
    end = None if until is None else parse_point(until, "--until")
    seen = 0
    async with opened(place) as board, board.replay(pattern, begin, end, speed) as memories:
        async for memory in memories:
            _tell(memory, place)
            seen += 1
            if seen == limit:
                return


def _tell(memory: Memory, place: Place) -> None:
    if place.as_json:
        say_json(as_tree(memory), line=True)
    else:
        say(line(memory))


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InvalidError(f"--limit {limit} must be at least 1")


def parse_tag(pair: str) -> tuple[str, str]:
    """Read NAME=VALUE.

    Raises:
        InvalidError: It is not that.
    """
    name, equals, value = pair.partition("=")
    if not (name and equals):
        raise InvalidError(f"--tag {pair!r} has no name or no value; write --tag NAME=VALUE")
    return name, value


async def _standard_input() -> str:
    body = await anyio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidError(
            "standard input is no UTF-8 text; encode it first, for example: base64 FILE"
        ) from error


def _value(content: str, *, text: bool) -> Json:
    if text:
        return content
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        if content.lstrip()[:1] in ("{", "["):
            warn(f"stored as text, because it is no valid JSON ({error}); --text says it is meant")
        return content
