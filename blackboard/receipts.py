"""The records of forgetting: what is ordered, what was removed for it, and the receipt.

They lie in the board's own stream under `claim.<board>.forget.>`, which no access policy grants, so
only services and the command line write them. An order holds what it selects in the clear, because
the steward has to find it, and is erased when it is done. A receipt stays: it holds digests in the
place of names, so that it proves what was forgotten to whoever knows the name, and tells nobody.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, Protocol, cast

import msgspec

from blackboard.codec import canonical, encode_record
from blackboard.messages import Memory
from blackboard.search import Filter
from blackboard.subjects import Ref

MAX_REFS = 10_000
"""References in one order; it is a message."""
Range = tuple[int, int]
"""First and last sequence, both removed, as all between them."""
State = Literal["removing", "pending", "complete", "refused"]


class Signer(Protocol):
    """What vouches for a receipt."""

    @property
    def public(self) -> str:
        """The public key as text."""
        ...

    def sign(self, statement: bytes) -> str:
        """Sign a statement; base64."""
        ...


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The wish that something is forgotten, with all that was made from it.

    Attributes:
        id: Names it and its receipt; 32 hex digits.
        agent: Who asks.
        at: When.
        reason: Kept in the receipt, and shown with the tombstones.
        refs: These memories; in addition to what `where` selects.
        where: Memories of which a revision that is kept matches; None selects none.
        shown: Results of `once` that were shown by what was forgotten on arrival; forgotten if
            nothing else shows them.
    """

    id: str
    agent: str
    at: datetime
    reason: str = ""
    refs: tuple[Ref, ...] = ()
    where: Filter | None = None
    shown: tuple[Ref, ...] = ()

    def selects(self, memory: Memory) -> bool:
        """Whether it names this memory, by one of its revisions."""
        if self.where is not None and self.where.selects(memory):
            return True
        return bool(self.refs) and memory.ref.unpinned in self.refs

    def selectors(self) -> dict[str, list[str]]:
        """What it selects by, with digests in the place of names."""
        named: dict[str, list[str]] = {}
        if self.refs:
            named["reference"] = [digest(str(ref.unpinned)) for ref in self.refs]
        if self.where is None:
            return named
        for field in self.where.__struct_fields__:
            value: object = getattr(self.where, field)
            texts = _texts(value)
            if texts:
                named[field] = [digest(text) for text in texts]
        return named


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is about to be removed from one store; written before anything is.

    Attributes:
        store: The stream.
        what: memories, chunks, records, letters or spans.
        refs: Digests of the references of the memories.
        ranges: Their sequences, or those of what names them.
        marks: Digests of the ids of the writes that stored them, which lie in a file beside what
            they stored.
        projected: One of them is shown by the key-value bucket.
        overrun: How many of them had as many revisions as the board keeps.
    """

    store: str
    what: str
    refs: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()
    marks: tuple[str, ...] = ()
    projected: bool = False
    overrun: int = 0


class Dropped(msgspec.Struct, frozen=True):
    """Word that the broker dropped revisions of a memory before they could be overwritten."""

    at: datetime


class Copy(msgspec.Struct, frozen=True):
    """Word of a copy that was made of the board and lies out of its reach.

    Attributes:
        what: It is, and where.
        at: When it was made.
        last: The revision that it reaches to.
    """

    what: str
    at: datetime
    last: int


class Store(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One store, and what was removed from it.

    Attributes:
        name: The stream or the index.
        what: Of what kind.
        removed: How many.
        ranges: Their sequences, as ranges.
        clean: No byte of it is left there, as far as `how` can tell.
        how: How that is known, or what is waited for.
    """

    name: str
    what: str
    removed: int = 0
    ranges: tuple[Range, ...] = ()
    clean: bool = False
    how: str = ""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was done for an order.

    Attributes:
        order: Its id.
        board: The board.
        created: Of the board's stream, so that one made anew under the name is told apart.
        agent: Who asked.
        asked: When.
        reason: Why, as it was given.
        selectors: By what, with digests in the place of names.
        state: removing: what was found is being removed; pending: it is gone from every reader, and
            some store still has to be seen clean; complete: none has; refused: nothing was done.
        memories: How many were forgotten, derived ones included.
        stores: What was removed from where.
        elsewhere: Copies that are known to exist, and have to be dealt with where they are.
        notes: What the reader has to know beside that.
        parts: How many parts the list of what was removed has.
        digest: Of the parts, in order.
        last: The revision of the last tombstone.
        removed: When all of it was gone from every reader.
        completed: When the last store was seen clean.
        key: The public key that it is signed with.
        signature: Over all of the above; base64.
    """

    order: str
    board: str
    created: str
    agent: str
    asked: datetime
    reason: str = ""
    selectors: dict[str, list[str]] = {}
    state: State = "removing"
    memories: int = 0
    stores: tuple[Store, ...] = ()
    elsewhere: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    parts: int = 0
    digest: str = ""
    last: int = 0
    removed: datetime | None = None
    completed: datetime | None = None
    key: str = ""
    signature: str = ""

    @property
    def waits_for(self) -> list[str]:
        """What has to be seen clean before it is complete."""
        return [f"{store.name}: {store.how}" for store in self.stores if not store.clean]

    def statement(self) -> bytes:
        """What is signed: canonical JSON of everything but the signature."""
        return canonical(msgspec.to_builtins(msgspec.structs.replace(self, signature="")))

    def signed(self, signer: Signer) -> "Receipt":
        """The same with a signature."""
        bare = msgspec.structs.replace(self, key=signer.public, signature="")
        return msgspec.structs.replace(bare, signature=signer.sign(bare.statement()))


def _texts(value: object) -> list[str]:
    """What a field of a filter names."""
    if isinstance(value, dict):
        pairs = cast("dict[str, tuple[str, ...]]", value)
        return [f"{name}={one}" for name, some in pairs.items() for one in some]
    if isinstance(value, tuple):
        return [str(one) for one in cast("tuple[object, ...]", value)]
    if isinstance(value, datetime):
        return [value.isoformat()]
    return [] if value is None else [str(value)]


def digest(text: str) -> str:
    """What stands for a name in a receipt."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_of(parts: Iterable[Part]) -> str:
    """What stands for the parts of a receipt, in order."""
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(encode_record(part)).digest())
    return found.hexdigest()


def ranges_of(sequences: Iterable[int]) -> tuple[Range, ...]:
    """Sequences as ranges, in order."""
    found: list[Range] = []
    for one in sorted(set(sequences)):
        if found and found[-1][1] == one - 1:
            found[-1] = (found[-1][0], one)
        else:
            found.append((one, one))
    return tuple(found)


def sequences_of(ranges: Sequence[Range]) -> list[int]:
    """Ranges as sequences."""
    return [one for first, last in ranges for one in range(first, last + 1)]
