"""Times and durations as people type them."""

import re
from datetime import datetime, timedelta
from typing import Literal

from blackboard.clock import now
from blackboard.errors import InvalidError

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d|w))+\Z")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")


def parse_duration(text: str, what: str) -> timedelta:
    """Read a duration such as 30s, 12h, 7d or 1h30m.

    Raises:
        InvalidError: It is none.
    """
    duration = _duration(text)
    if duration is None:
        raise InvalidError(f"{what} {text!r} is no duration; write one like 30s, 10m, 12h or 7d")
    return duration


def parse_time(text: str, what: str) -> datetime:
    """Read a time: RFC 3339 with a time zone, or a duration ago.

    Raises:
        InvalidError: It is none.
    """
    duration = _duration(text)
    if duration is not None:
        return _ago(duration, text, what)
    moment = _moment(text, what)
    if moment is None:
        raise InvalidError(
            f"{what} {text!r} is no time; write 2026-11-20T09:30:00Z, or how long ago, like 10m"
        )
    return moment


def parse_since(text: str, what: str = "--since") -> datetime | int | Literal["start"]:
    """Read where reading begins: start, a time, a duration ago, or a revision.

    Raises:
        InvalidError: It is none of these.
    """
    if text == "start":
        return "start"
    point = parse_point(text, what)
    if isinstance(point, int) and point < 1:
        raise InvalidError(f"{what} {text!r}: revisions are counted from 1")
    return point


def parse_point(text: str, what: str) -> datetime | int:
    """Read a point on a board: a time, a duration ago, or a revision.

    Raises:
        InvalidError: It is none of these.
    """
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    duration = _duration(text)
    moment = _ago(duration, text, what) if duration is not None else _moment(text, what)
    if moment is None:
        raise InvalidError(
            f"{what} {text!r} is neither a time (2026-11-20T09:30:00Z), nor how long ago (10m), "
            "nor a revision (42)"
        )
    return moment


def _duration(text: str) -> timedelta | None:
    if not _DURATION.match(text):
        return None
    total = timedelta()
    try:
        for number, unit in _PART.findall(text):
            days = unit == "w"
            total += timedelta(**{_UNITS.get(unit, "days"): float(number) * (7 if days else 1)})
    except OverflowError as error:
        raise InvalidError(f"{text!r} is too long a time") from error
    return total


def _ago(duration: timedelta, text: str, what: str) -> datetime:
    try:
        return now() - duration
    except OverflowError as error:
        raise InvalidError(f"{what} {text!r} is before the year 1") from error


def _moment(text: str, what: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        raise InvalidError(f"{what} {text!r} has no time zone; append Z for UTC, or +02:00")
    return moment
