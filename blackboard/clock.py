"""The wall clock, read in one place.

Only what has to do with absolute times asks it: expiry, `since=` as a duration, and the times noted
in records. Nothing is decided by comparing clocks of two machines; order is the broker's sequence.
What a caller gives as a time, or as a length of time, is checked here too.
"""

from datetime import UTC, datetime, timedelta

from blackboard.errors import InvalidError


def now() -> datetime:
    """The time now, UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the one reader


def check_span(name: str, span: object) -> timedelta:
    """Refuse what is no length of time, such as a number that might be seconds or minutes."""
    if not isinstance(span, timedelta):
        raise InvalidError(f"{name}={span!r} must be a timedelta, in whatever unit")
    return span


def check_moment(name: str, moment: object) -> datetime:
    """Refuse what is no point in time, such as its text, or a time of day somewhere."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidError(
            f"{name}={moment!r} must be a datetime with time zone, like datetime.now(UTC)"
        )
    return moment
