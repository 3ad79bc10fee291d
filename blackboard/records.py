"""The records beside the memories: leases, what handlers made, groups, presence, letters, audit.

They lie in the board's own stream where they have to commit together with memories, and in streams
and buckets of their own where they do not.
"""

import re
from datetime import datetime
from typing import Any, Literal

import msgspec

from blackboard.errors import InvalidError
from blackboard.subjects import Ref


class Cause(msgspec.Struct, frozen=True):
    """Why a handler wrote a memory; the text of header `Bb-Cause`."""

    input: Ref
    """Pinned; for `gather`, the part that completed the group."""
    agent: str
    handler: str
    version: str
    run: int

    def __str__(self) -> str:
        return f"{self.input} {self.agent}--{self.handler} v{self.version} run{self.run}"

    @property
    def age(self) -> tuple[int, int]:
        """Orders causes of one input: by run, then by the input's revision."""
        return self.run, self.input.revision or 0

    @classmethod
    def parse(cls, text: str) -> "Cause":
        """Read the header.

        Raises:
            InvalidError: `text` is no cause.
        """
        found = _CAUSE.match(text)
        if found is None:
            raise InvalidError(f"{text!r} is no cause")
        reference, agent, handler, version, run = found.groups()
        return cls(Ref.parse(reference), agent, handler, version, int(run))


_CAUSE = re.compile(r"(\S+) (\S+?)--(\S+) v(.*) run([0-9]{1,12})\Z")


class Lease(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of `once`: who is making a result right now, or why the last try failed."""

    holder: str
    """A UUID per call, so that two calls in one process never share a lease."""
    until: datetime
    state: Literal["held", "failed", "released"] = "held"
    error: str | None = None


class HandlerRecord(msgspec.Struct, frozen=True):
    """What a handler made of one input; commits in one batch with the outputs."""

    cause: str
    refs: tuple[Ref, ...] = ()
    """Outputs with an id of their own, each pinned or, when of the same batch, unpinned."""


class GroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of a `gather` group so far, and which of them were merged."""

    run: int = 1
    parts: tuple[Ref, ...] = ()
    """Pinned, in order of first arrival."""
    last: Ref | None = None
    """The last arrival, tombstones included: `idle=` counts from it."""
    merged: str | None = None
    """Digest of the parts that the last merge saw; None before the first."""
    refs: tuple[Ref, ...] = ()


class RunRecord(msgspec.Struct, frozen=True):
    """How many generations of a handler's consumer there were."""

    run: int
    launch: str = ""
    """Who announced the last one: replicas that were started together share it."""


class Card(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The presence of one running instance of an agent; lives as long as it is refreshed."""

    agent: str
    instance: str
    version: str = ""
    host: str = ""
    pid: int = 0
    started: datetime
    handlers: dict[str, str] = {}
    """Handler name to topic pattern."""
    state: Literal["running", "stopping"] = "running"
    in_hand: int = 0
    done: int = 0
    failed: int = 0


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A memory that a handler gave up on."""

    input: Ref
    agent: str
    handler: str
    version: str = ""
    error: str
    traceback: str = ""
    attempts: int = 0
    chain: tuple[str, ...] = ()
    """At the hop limit: the agents that handed the memory on, newest first."""


class Retry(msgspec.Struct, frozen=True):
    """An operator's wish that a handler takes a dead letter again."""

    input: Ref


class IndexRecord(msgspec.Struct, frozen=True):
    """How far an index is clean of what was forgotten; written by the service that holds it.

    It lives as long as tombstones do: an index that was not opened for longer is built again.
    """

    index: str
    """Where it is, for an operator."""
    seen: int = 0
    """The newest `forgotten` tombstone that it has taken in."""
    clean: int = 0
    """What tombstones up to here took away is off its disk."""


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One read, delivery or privileged act, as the process that did it reports it."""

    at: datetime
    agent: str
    instance: str
    act: str
    """get, get_at, watch, view, view_reads, replay, wait, delivery, retire, undo, reclassify, …"""
    what: str
    """The reference or the pattern."""
    revision: int | None = None
    outcome: str = "ok"
    """ok, or the name of the error."""
    count: int = 1
    """How many reads this event stands for (`view_reads`)."""
    handler: str | None = None
    trace: str | None = None


class AuditBatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The audit events that one process gathered in 250 ms, or 256 of them."""

    events: tuple[AuditEvent, ...]
    dropped: int = 0
    """Events lost since the last batch because the process could not write them in time."""


class SpanRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One finished OpenTelemetry span."""

    trace: str
    """32 hex digits."""
    span: str
    """16 hex digits."""
    parent: str | None = None
    name: str
    kind: str
    """internal, client, producer, consumer or server."""
    start_ns: int
    """Since the Unix epoch."""
    end_ns: int
    agent: str
    instance: str
    attributes: dict[str, Any] = {}
    links: tuple[str, ...] = ()
    """`<trace>-<span>` of the spans that this one continues."""
    error: str | None = None


class SpanBatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The spans that one process gathered in 250 ms, or 256 of them."""

    spans: tuple[SpanRecord, ...]
    dropped: int = 0


class ApiRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent with limited rights asks the steward to ask the broker for it.

    Attributes:
        verb: What would follow `$JS.API.`.
        body: Its JSON body; absent for none.
    """

    verb: str
    body: dict[str, Any] | None = None


class ServedMessage(msgspec.Struct, frozen=True):
    """One message as the steward read it for an agent; `data` is base64 in JSON."""

    subject: str
    sequence: int
    stored: datetime
    headers: dict[str, str] = {}
    data: bytes = b""


class ServedMessages(msgspec.Struct, frozen=True):
    """The answer to a get that the broker answers with several messages, or by sequence."""

    messages: tuple[ServedMessage, ...] = ()
