"""One finding of the doctor, and how sizes read in it."""

from typing import Literal

import msgspec

FULL = 0.8
"""Share of a limit from which on it is worth a warning; writers stop at 0.95 of a board's bytes."""


class Check(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        name: What was looked at.
        state: ok; warn: it works, but look at it; fail: it does not work or data is at risk;
            unknown: it cannot be seen from here.
        found: What was found.
        do: What to do about it; empty when nothing.
    """

    name: str
    state: Literal["ok", "warn", "fail", "unknown"]
    found: str
    do: str = ""


def gib(count: int) -> str:
    """Bytes for people."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 27 else f"{count / (1 << 20):.1f} MiB"
