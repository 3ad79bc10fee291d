"""Every error of the library, as one tree; the class says what the caller does next.

    BlackboardError
      RetryableError          do the same again, later
        ConflictError           somebody else wrote first: read again, decide again
        UnavailableError        no answer from the broker within the time limit
        BoardFullError          the board's byte limit is reached: free room or raise the limit
        NoAnswerError           nothing that matches came in time (also a TimeoutError)
        MakeFailedError         the caller who made the result failed; try again yourself
        ModelBusyError          the model endpoint is overloaded or unreachable
      TerminalError           doing the same again fails again
        InvalidError            an argument or a message breaks a rule; the text names the rule
          LabelError              the access label is missing, ambiguous or another one
        DeniedError             the access policy does not grant it; the text names what is missing
        NotFoundError           nothing was ever there, or it expired
        GoneError               it was there and was retired, forgotten or moved
        HistoryGoneError        the memory is there, the revision asked for is not kept any more
        TooLargeError           above a size limit; the text names the limit
        TooManyOutputsError     a handler put more than one atomic batch holds
        ModelRefusedError       the model endpoint will not answer this request
      SettingsError           fix the settings; nothing was connected or written (exit code 2)

A handler that raises a `RetryableError` gets its input again after a delay; a `TerminalError` sends
the input to the dead letters at once; any other exception counts as a bug: it is retried, then
dead.
"""


class BlackboardError(Exception):
    """Base of every error this library raises; catch it around a call to the board."""


class RetryableError(BlackboardError):
    """The same call may succeed later.

    Args:
        message: What happened and what to do next.
        after_s: Seconds to wait before trying again; None leaves it to the caller's backoff.
    """

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class TerminalError(BlackboardError):
    """The same call would fail again; change the arguments or give up."""


class SettingsError(BlackboardError):
    """The settings or the set-up are wrong; the text says what to change."""


class ConflictError(RetryableError):
    """The memory moved past the expected revision; read again, decide again.

    Args:
        what: The memory, by reference.
        expected: The revision the caller had read; 0 means "absent"; None when unknown.
    """

    def __init__(self, what: str, expected: int | None = None) -> None:
        been = "" if expected is None else f" since revision {expected}"
        super().__init__(f"{what!r} was changed by another writer{been}; read it again and retry")
        self.what = what
        self.expected = expected


class UnavailableError(RetryableError):
    """The broker did not answer within the time limit; the write may or may not be stored."""


class NoAnswerError(RetryableError, TimeoutError):
    """Nothing that matches came within the caller's own time limit."""


class BoardFullError(RetryableError):
    """The board's byte limit is reached and the broker refused the write; nothing was stored."""


class MakeFailedError(RetryableError):
    """Another caller's `make` failed while this one waited for its result; calling again tries."""


class ModelBusyError(RetryableError):
    """The model endpoint is overloaded, slow or unreachable; retry later."""


class InvalidError(TerminalError):
    """An argument, or a message found on the board, breaks a rule; the text names the rule."""


class LabelError(InvalidError):
    """An access label is ambiguous or differs from the memory's own; name `access=`."""


class DeniedError(TerminalError):
    """The access policy does not grant this; the text names the missing right and where to add it.

    Nothing was read or written.
    """


class NotFoundError(TerminalError):
    """No such memory: it was never written, or it expired."""


class GoneError(TerminalError):
    """The memory was taken back.

    Args:
        what: The memory, by reference.
        reason: `retired` (`undo` brings it back within the grace period), `forgotten` or `moved`.
    """

    def __init__(self, what: str, reason: str) -> None:
        hint = "; `undo` brings it back within the grace period" if reason == "retired" else ""
        super().__init__(f"{what!r} is gone ({reason}){hint}")
        self.what = what
        self.reason = reason


class HistoryGoneError(TerminalError):
    """The memory exists, but the revision or time asked for lies beyond the kept history."""


class TooLargeError(TerminalError):
    """Above a size limit; the text gives the size and the limit."""


class TooManyOutputsError(TerminalError):
    """A handler put more memories than one atomic batch of the broker holds (1,000)."""


class ModelRefusedError(TerminalError):
    """The model endpoint refused the request, or answered with something that is no answer."""
