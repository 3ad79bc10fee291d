"""How the broker's error codes become errors of the library's own tree; mapped only here."""

import msgspec

from blackboard.errors import (
    BlackboardError,
    BoardFullError,
    ConflictError,
    TerminalError,
    TooLargeError,
    UnavailableError,
)

CONFLICTS = frozenset({10071, 10164, 10201})
"""Wrong last sequence; the same on a replicated stream; a batch that was committed before."""
FULL = frozenset({10023, 10047, 10077})
"""Not enough resources, not enough storage, maximum bytes exceeded."""
TOO_MANY_BATCHES = 10210
UNAVAILABLE = frozenset({10008, 10009, 10039, 10176})
"""The last one: a batch that lost its beginning to a broken connection; nothing was stored."""
STREAM_MISSING = 10059
STREAM_EXISTS = 10058
"""There already, with other settings."""
NO_MESSAGE = frozenset({10037, 10043, 10057})
"""No message found; sequence not found; deletion failed, for whatever reason."""
CONSUMER_MISSING = 10014
CONSUMER_EXISTS = frozenset({10013, 10105, 10148})
MESSAGE_TOO_LARGE = 10054
RESTORE_FAILED = 10062


class NoStreamError(UnavailableError):
    """Nothing listens on the subject: the board does not exist yet, or the broker is starting."""


class BrokerError(TerminalError):
    """The broker refused a request; `code` is its own error code.

    Args:
        code: The server's `err_code`.
        description: The server's words.
        what: What was asked for.
    """

    def __init__(self, code: int, description: str, what: str) -> None:
        super().__init__(f"the broker refused {what}: {description} (code {code})")
        self.code = code


class ApiError(msgspec.Struct):
    """The `error` field of an answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


def from_api(error: ApiError, what: str, expected: int | None = None) -> BlackboardError:
    """Turn the broker's answer into the error that tells the caller what to do next."""
    code = error.err_code
    if code in CONFLICTS:
        return ConflictError(what, expected)
    if code in FULL:
        return BoardFullError(
            f"the broker has no room for {what} ({error.description}); nothing was stored. "
            "Delete what is not needed, or raise the board's byte limit"
        )
    if code in UNAVAILABLE:
        return UnavailableError(f"the broker is not ready ({error.description}); try again")
    if code == STREAM_MISSING:
        return NoStreamError(f"{what}: no such board on this broker")
    if code == MESSAGE_TOO_LARGE:
        return TooLargeError(f"{what} is above the broker's message limit")
    return BrokerError(code, error.description, what)
