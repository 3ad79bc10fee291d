"""Memories as points of an engine: ids, fields, and back.

Times are whole microseconds, which a float still holds exactly in the year 2255. Everything that
is searched by is a field of its own; the reference, which is the answer, is one too.
"""

import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec
import numpy as np

from blackboard.errors import InvalidError
from blackboard.recall.index import (
    BrokenIndexError,
    Candidate,
    Entry,
    MismatchError,
    Signature,
    Vectors,
)
from blackboard.recall.predicate import kept, microseconds, places, tag, untag
from blackboard.recall.weights import FloatArray
from blackboard.subjects import BB_NAMESPACE, Ref

FORMAT: Final = 3
"""Counted up when the same memory would give another point, or an engine keep it in another way: an
index of another format is built anew."""
Kind = Literal["keyword", "integer", "float"]
Payload = dict[str, Any]

FIELDS: Final[dict[str, Kind]] = {
    "access": "keyword",
    "agent": "keyword",
    "session": "keyword",
    "user": "keyword",
    "kind": "keyword",
    "topic": "keyword",
    "places": "keyword",
    "tags": "keyword",
    "sources": "keyword",
    "shows": "keyword",
    "borrowed": "keyword",
    "depth": "integer",
    "revision": "integer",
    "stored": "integer",
    "happened": "integer",
    "expires": "integer",
    "priority": "float",
}
"""What is indexed, and how."""
CANDIDATE = "candidate"
"""What ranking needs of a memory, as one text: engines hand over fields one by one, and a search
hands over two hundred candidates, so six fields of each would take as long as finding them."""
SCORED = [CANDIDATE]
"""Fields that a candidate is made of."""
BARE = "bare"
WORDS = "words"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_read_candidate = msgspec.json.Decoder(Candidate).decode


def point_id(board: str, ref: Ref) -> str:
    """The point of a memory; a name cannot be made to fall on another memory's point."""
    return str(uuid.uuid5(BB_NAMESPACE, f"{board}/{ref.unpinned}"))


def moment(stamp: int) -> datetime:
    """The time that was kept as microseconds."""
    return _EPOCH + timedelta(microseconds=stamp)


def payload(entry: Entry) -> Payload:
    """The fields of a memory; what it does not have is left out."""
    fields: Payload = {
        "ref": str(entry.ref.unpinned),
        "revision": entry.revision,
        "access": entry.access,
        "agent": entry.author,
        "kind": kept(entry.kind),
        "topic": entry.ref.topic,
        "places": places(entry.ref.topic),
        "depth": entry.ref.topic.count(".") + 1,
        "priority": float(entry.priority),
        "stored": microseconds(entry.stored),
    }
    fields[CANDIDATE] = _candidate(fields, entry)
    if entry.session is not None:
        fields["session"] = kept(entry.session)
    if entry.user is not None:
        fields["user"] = kept(entry.user)
    if entry.tags:
        fields["tags"] = [tag(name, value) for name, value in entry.tags.items()]
    if entry.happened is not None:
        fields["happened"] = microseconds(entry.happened)
    if entry.expires is not None:
        fields["expires"] = microseconds(entry.expires)
    if entry.sources:
        fields["sources"] = [str(source.unpinned) for source in entry.sources]
    if entry.shows is not None:
        fields["shows"] = str(entry.shows.unpinned)
    if entry.borrowed:
        fields["borrowed"] = [str(before.unpinned) for before in entry.borrowed]
    if entry.text is not None:
        fields["text"] = entry.text
    return fields


def entry(fields: Mapping[str, Any], vectors: Vectors) -> Entry:
    """The memory that `payload` was made of; values above `MAX_VALUE` come back as digests."""
    happened, expires, shows = fields.get("happened"), fields.get("expires"), fields.get("shows")
    return Entry(
        ref=ref(fields["ref"]),
        revision=fields["revision"],
        access=fields["access"],
        author=fields["agent"],
        session=fields.get("session"),
        user=fields.get("user"),
        kind=fields["kind"],
        tags=dict(untag(text) for text in fields.get("tags", ())),
        priority=float(fields["priority"]),
        stored=moment(fields["stored"]),
        happened=None if happened is None else moment(happened),
        expires=None if expires is None else moment(expires),
        sources=tuple(ref(source) for source in fields.get("sources", ())),
        shows=None if shows is None else ref(shows),
        borrowed=tuple(ref(before) for before in fields.get("borrowed", ())),
        text=fields.get("text"),
        vectors=vectors,
    )


def ref(text: str) -> Ref:
    """A reference that was written here; checking it again would cost a third of a search."""
    agent, topic, id = text.split("/")  # noqa: A001
    return Ref(agent, topic, id)


def candidate(fields: Mapping[str, Any]) -> Candidate:
    """What ranking needs, from the field that has it all."""
    return _read_candidate(fields[CANDIDATE])


def _candidate(fields: Payload, entry: Entry) -> str:
    seen = Candidate(
        fields["ref"],
        entry.revision,
        fields["stored"],
        fields["priority"],
        None if entry.shows is None else str(entry.shows.unpinned),
        None if entry.session is None else kept(entry.session),
    )
    return msgspec.json.encode(seen).decode()


def check(vectors: Vectors, signature: Signature) -> None:
    """Refuse what would be stored and never found.

    Raises:
        InvalidError: Wrong dimensions, a number that is none, or words without as many weights.
    """
    _check_dense(vectors.bare, signature)
    words = vectors.words
    if len(words.indices) != len(words.values) or len(set(words.indices)) != len(words.indices):
        raise InvalidError(
            f"{len(words.indices)} words with {len(words.values)} weights; every word has one "
            "weight and appears once"
        )
    if not all(map(math.isfinite, words.values)):
        raise InvalidError("the weight of a word is not finite; check how texts are encoded")
    if words.indices and not 0 <= min(words.indices) <= max(words.indices) < 2**32:
        raise InvalidError("the index of a word does not fit into 32 bits")


def _check_dense(vector: FloatArray, signature: Signature) -> None:
    if vector.shape != (signature.dimensions,):
        raise InvalidError(
            f"a vector of shape {vector.shape} for an index of {signature.dimensions} "
            f"dimensions ({signature.embedder!r}); to change the embedder run "
            "`blackboard reindex --embedder …`"
        )
    if not np.isfinite(vector).all():
        raise InvalidError(
            f"a vector with NaN or infinity; check what the embedder "
            f"({signature.embedder!r}) answers"
        )


def check_format(found: object, where: str) -> None:
    """Refuse an index that another version of this package keeps in another way.

    Raises:
        BrokenIndexError: It is one.
    """
    if found != FORMAT:
        raise BrokenIndexError(
            f"the index in {where!r} is of format {found} instead of {FORMAT}, of another version "
            "of this package; nothing is lost, the board holds everything: it has to be built anew"
        )


def check_signature(found: Signature, wanted: Signature, where: str) -> None:
    """Refuse an index that was built with something else.

    Raises:
        MismatchError: It was; the text names the command to run.
    """
    names = ("board", "embedder", "dimensions", "recipe", "created")
    different = [
        f"{name} {getattr(found, name)!r} instead of {getattr(wanted, name)!r}"
        for name in names
        if getattr(found, name) != getattr(wanted, name)
    ]
    if different:
        raise MismatchError(
            f"the index in {where!r} was built with {', '.join(different)}; "
            "run `blackboard reindex`",
            found,
        )
