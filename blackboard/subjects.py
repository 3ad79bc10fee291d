"""The subject grammar: tokens, references, patterns, and the names of streams and buckets.

A memory lives at `mem.<board>.<access>.<agent>.<topic>.<id>`. Board and agent come early because
the broker grants rights by prefix; the topic comes before the id because readers ask by topic.
Nothing
here talks to the broker: what a pattern selects is decided by the same text there and here, and a
test holds the two against each other.
"""

import re
import uuid
from dataclasses import dataclass
from typing import Final, final

from blackboard.errors import InvalidError

BB_NAMESPACE = uuid.UUID("6b1b7a52-8f0e-5c33-9d7e-2f5a4c1d90ab")
"""Root of every derived id; part of the wire format, so it never changes."""

ONCE = "once"
ANSWERS = "answers"
STATE = "state"
SHARED = "shared"
FORGET = "forget"
"""In the place of a label: records of forgetting. No policy grants it, so services write there."""
ANY_AGENT = "*"
CONSOLIDATOR = "consolidator"
"""The agent whose summaries stand for what it retires."""
MAX_SUBJECT_BYTES = 1024
"""Subjects travel in the protocol's control line (4,096 bytes at the broker), with a reply
beside."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_NAME = re.compile(r"(?=.{1,64}\Z)[a-z0-9_]+(-[a-z0-9_]+)*\Z")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_ID = re.compile(r"[0-9a-f]{32}\Z")
_SUBJECT = re.compile(r"mem(?:\.[A-Za-z0-9_-]{1,64}){4,}\.[A-Za-z0-9_-]{1,128}\Z")


def _check_text(what: str, value: object) -> None:
    """Refuse what is no str, with the fix: numbers are often meant as keys and names."""
    if not isinstance(value, str):
        raise InvalidError(f"{what} {value!r} must be a str, not {type(value).__name__}")


def check_token(what: str, value: str) -> str:
    """Return `value` when it can be a board, an access label or one token of a topic.

    Raises:
        InvalidError: It cannot; the text names the rule.
    """
    _check_text(what, value)
    if not _TOKEN.match(value):
        raise InvalidError(f"{what} {value!r} must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -")
    return value


def check_name(what: str, value: str) -> str:
    """Return `value` when it can name an agent or a handler.

    Raises:
        InvalidError: It cannot. `--` is kept free: it joins agent and handler in a consumer's name.
    """
    _check_text(what, value)
    if not _NAME.match(value):
        raise InvalidError(
            f"{what} {value!r} must be 1 to 64 characters of a-z, 0-9, _ and single - between them"
        )
    return value


def check_topic(value: str) -> str:
    """Return `value` when it is a topic: tokens joined by dots.

    Raises:
        InvalidError: It is not, or it is too long to be a subject.
    """
    _check_text("topic", value)
    for token in value.split("."):
        check_token(f"topic {value!r}: the token", token)
    if len(value) > MAX_SUBJECT_BYTES // 2:
        raise InvalidError(
            f"topic of {len(value)} characters; the limit is {MAX_SUBJECT_BYTES // 2}"
        )
    return value


def check_key(value: str) -> str:
    """Return `value` when it can be the key of shared state.

    Raises:
        InvalidError: It cannot; 32 hex digits are the shape of an id, so a key may not look so.
    """
    _check_text("key", value)
    if not _KEY.match(value):
        raise InvalidError(
            f"key {value!r} must be 1 to 128 characters of A-Z, a-z, 0-9, _ and -; "
            "hash or escape anything else"
        )
    if _ID.match(value):
        raise InvalidError(f"key {value!r} looks like an id (32 hex digits); add a prefix to it")
    return value


def is_id(value: str) -> bool:
    """Tell an id (32 lower-case hex digits, owned by one agent) from a key (shared state)."""
    return _ID.match(value) is not None


def derived_id(material: bytes) -> str:
    """Return the id that canonical JSON `material` stands for, the same on every machine."""
    return uuid.uuid5(BB_NAMESPACE, material.decode()).hex


@final
class Ref:
    """The name of a memory on its board: `<agent>/<topic>/<id>` or `*/<topic>/<key>`.

    Immutable. It is no dataclass because the JSON library would write one as an object; on the wire
    a reference is text.

    Attributes:
        agent: The author; `*` for shared state, which every agent may revise.
        topic: Tokens joined by dots.
        id: 32 hex digits, or the key of shared state.
        revision: Pins one revision (`@<revision>` in the text); None means the newest.
        written: The revision that the write which returned this reference made, or that was read;
            None when unknown. It is no part of the name: references that differ only here are
            equal. Reads use it so that a lagging replica cannot answer with something older.
    """

    __slots__ = ("agent", "id", "revision", "topic", "written")

    def __init__(
        self,
        agent: str,
        topic: str,
        id: str,  # noqa: A002 - what the token is called everywhere
        revision: int | None = None,
        written: int | None = None,
    ) -> None:
        self.agent: Final = agent
        self.topic: Final = topic
        self.id: Final = id
        self.revision: Final = revision
        self.written: Final = written

    def __str__(self) -> str:
        pin = "" if self.revision is None else f"@{self.revision}"
        return f"{self.agent}/{self.topic}/{self.id}{pin}"

    def __repr__(self) -> str:
        return f"Ref({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Ref)
            and self.id == other.id
            and self.topic == other.topic
            and self.agent == other.agent
            and self.revision == other.revision
        )

    def __hash__(self) -> int:
        return hash((self.agent, self.topic, self.id, self.revision))

    @property
    def shared(self) -> bool:
        """Whether this is shared state at a key."""
        return self.agent == ANY_AGENT

    @property
    def unpinned(self) -> "Ref":
        """The same memory, newest revision."""
        if self.revision is None:
            return self
        return Ref(self.agent, self.topic, self.id, None, self.written)

    def pinned(self, revision: int | None = None) -> "Ref":
        """The same memory at `revision`, by default the one this reference was written at.

        Raises:
            InvalidError: No revision is given and none is known.
        """
        pin = revision or self.revision or self.written
        if pin is None:
            raise InvalidError(f"{self} has no known revision to pin; get it first")
        return Ref(self.agent, self.topic, self.id, pin, pin)

    @classmethod
    def parse(cls, text: str) -> "Ref":
        """Read a reference.

        `<agent>/<topic>/<key>` becomes `*/<topic>/<key>`: shared state has no owner.

        Raises:
            InvalidError: `text` is no reference; the text names the rule that it breaks.
        """
        body, at, pin = text.partition("@")
        parts = body.split("/")
        if len(parts) != 3 or (at and not re.fullmatch(r"[1-9][0-9]{0,18}", pin)):
            raise InvalidError(
                f"{text!r} is no reference; write <agent>/<topic>/<id> or */<topic>/<key>, "
                "optionally followed by @<revision>"
            )
        agent, topic, identifier = parts
        check_topic(topic)
        revision = int(pin) if at else None
        if not is_id(identifier):
            if agent != ANY_AGENT:
                check_name("agent", agent)
            return cls(ANY_AGENT, topic, check_key(identifier), revision)
        return cls(check_name("agent", agent), topic, identifier, revision)


@dataclass(frozen=True, slots=True)
class Address:
    """Where one memory lies on the broker: the parts of its subject."""

    board: str
    access: str
    agent: str
    topic: str
    id: str

    def __str__(self) -> str:
        return f"mem.{self.board}.{self.access}.{self.agent}.{self.topic}.{self.id}"

    @property
    def ref(self) -> Ref:
        """The unpinned reference of the memory at this address."""
        return Ref(self.agent if is_id(self.id) else ANY_AGENT, self.topic, self.id)

    @classmethod
    def parse(cls, subject: str) -> "Address":
        """Take a memory's subject apart.

        Raises:
            InvalidError: `subject` is no memory's subject.
        """
        # The broker stores messages whose subject has a wildcard as a token; read as a reference,
        # such a subject would stand for the memories of others.
        if _SUBJECT.match(subject) is None:
            raise InvalidError(f"{subject!r} is no memory's subject")
        parts = subject.split(".")
        return cls(parts[1], parts[2], parts[3], ".".join(parts[4:-1]), parts[-1])


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which topics somebody cares about: `*` is one token, a last `>` is zero or more.

    `docs.>` selects `docs`, `docs.a` and `docs.a.b`; `docs.*` selects `docs.a` only.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Check a pattern.

        Raises:
            InvalidError: `text` is no pattern; the text names the rule that it breaks.
        """
        _check_text("pattern", text)
        tokens = text.split(".")
        for index, part in enumerate(tokens):
            if part == "*" or (part == ">" and index == len(tokens) - 1):
                continue
            if ">" in part:
                raise InvalidError(f"pattern {text!r}: '>' may only be the whole last token")
            check_token(f"pattern {text!r}: the token", part)
        if len(text) > MAX_SUBJECT_BYTES // 2:
            raise InvalidError(f"pattern of {len(text)} characters; the limit is 512")
        return cls(text)

    def subject(self, board: str, *, access: str = "*", agent: str = "*") -> str:
        """The broker's filter for memories on `board` whose topic this pattern selects.

        The id is one more token, which is how a last `>` comes to mean zero or more.
        """
        last = "" if self.text.split(".")[-1] == ">" else ".*"
        return f"mem.{board}.{access}.{agent}.{self.text}{last}"

    def matches(self, topic: str) -> bool:
        """Whether this pattern selects `topic`; agrees with the broker's filter."""
        wanted, found = self.text.split("."), topic.split(".")
        if wanted[-1] == ">":
            wanted.pop()
            found = found[: len(wanted)] if len(found) >= len(wanted) else found
        return len(wanted) == len(found) and all(
            want in ("*", have) for want, have in zip(wanted, found, strict=True)
        )


def subject_matches(filter_subject: str, subject: str) -> bool:
    """Whether the broker's filter selects a subject; `>` is one or more tokens here, as in NATS."""
    wanted, found = filter_subject.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(found) <= len(wanted):
            return False
        found = found[: len(wanted)]
    return len(wanted) == len(found) and all(
        want in ("*", have) for want, have in zip(wanted, found, strict=True)
    )


def reference_filter(board: str, ref: Ref, *, access: str = "*") -> str:
    """The filter that selects every revision of a memory, under whatever label it lies."""
    return f"mem.{board}.{access}.{ref.agent}.{ref.topic}.{ref.id}"


def claim_subject(board: str, access: str, agent: str, name: str) -> str:
    """Where a record of a lease (`o-`), a handler (`h-`), a group (`g-`) or a run (`r-`) lies."""
    return f"claim.{board}.{access}.{agent}.{name}"


def order_subject(board: str, agent: str, order: str) -> str:
    """Where an agent orders that something is forgotten."""
    return claim_subject(board, FORGET, agent, f"f-{order}")


def receipt_subject(board: str, agent: str, order: str, part: int | None = None) -> str:
    """Where the steward keeps the receipt of an order, or one of its parts, counted from 0."""
    return claim_subject(board, FORGET, agent, f"e-{order}" + ("" if part is None else f"-{part}"))


def index_subject(board: str, agent: str, index: str) -> str:
    """Where a service says how far an index of its own is clean of what was forgotten."""
    return claim_subject(board, FORGET, agent, f"i-{index}")


def dropped_subject(board: str, agent: str, memory: str) -> str:
    """Where the steward notes of which memory the broker dropped revisions by itself."""
    return claim_subject(board, FORGET, agent, f"d-{memory}")


def hint_subject(board: str, access: str, digest: str) -> str:
    """Where waiters of `once` are told to look again; a core message that may be lost."""
    return f"hint.{board}.{access}.{digest}"


def blob_subject(board: str, access: str, agent: str, blob: str, chunk: int | str) -> str:
    """Where one chunk of large content lies; `chunk` counts from 0, or is `*`."""
    return f"blob.{board}.{access}.{agent}.{blob}.{chunk}"


def dead_subject(board: str, agent: str, handler: str) -> str:
    """Where the memories lie that a handler gave up on."""
    return f"dead.{board}.{agent}.{handler}"


def retry_subject(board: str, agent: str, handler: str) -> str:
    """Where an operator puts dead letters that the handler shall try again."""
    return f"retry.{board}.{agent}.{handler}"


def audit_subject(board: str, agent: str) -> str:
    """Where an agent's process writes its audit events."""
    return f"audit.{board}.{agent}"


def spans_subject(board: str, agent: str) -> str:
    """Where an agent's process writes its spans."""
    return f"spans.{board}.{agent}"


def service_subject(board: str, verb: str, agent: str) -> str:
    """Where an agent asks a service; `agent` is `*` for the service itself."""
    return f"svc.{board}.{verb}.{agent}"


def memory_stream(board: str) -> str:
    """The stream that is the board."""
    return f"MEM_{board}"


def blob_stream(board: str) -> str:
    """The stream of large content."""
    return f"BLOB_{board}"


def audit_stream(board: str) -> str:
    """The stream of audit events."""
    return f"AUDIT_{board}"


def spans_stream(board: str) -> str:
    """The stream of spans."""
    return f"SPANS_{board}"


def dead_stream(board: str) -> str:
    """The stream of dead letters and their retries."""
    return f"DEAD_{board}"


def presence_bucket(board: str) -> str:
    """The bucket of cards, one per running instance."""
    return f"agents_{board}"


def state_bucket(board: str) -> str:
    """The bucket that shows the newest shared state of topics under `state.`."""
    return f"state_{board}"


def consumer_name(agent: str, handler: str) -> str:
    """The durable consumer that all replicas of a handler share."""
    return f"{agent}--{handler}"
