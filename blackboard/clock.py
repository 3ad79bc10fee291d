"""The wall clock, read in one place.

Only what has to do with absolute times asks it: expiry, `since=` as a duration, and the times noted
in records. Nothing is decided by comparing clocks of two machines; order is the broker's sequence.
"""

from datetime import UTC, datetime


def now() -> datetime:
    """The time now, UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the one reader
