"""JSON as the wire has it: plain values in and out, and one canonical form to hash.

Content is whatever JSON can say. What JSON cannot say (bytes, NaN, keys that are no str) is refused
here, before anything is sent, because a reader in another language would see something else.
"""

import hashlib
import math
from typing import Any, TypeVar, cast

import msgspec
import rfc8785

from blackboard.errors import InvalidError, TooLargeError
from blackboard.subjects import Ref

RecordT = TypeVar("RecordT", bound=msgspec.Struct)
ValueT = TypeVar("ValueT")
Json = Any
"""A JSON value: None, bool, int, float, str, list or dict with str keys."""

MAX_INTEGER = 2**63
MAX_CONTENT_BYTES = 256 * 1024 * 1024


def encode_record(record: msgspec.Struct) -> bytes:
    """Write a struct as JSON; references become text."""
    return _encoder.encode(record)


def decode_record(body: bytes, kind: type[RecordT]) -> RecordT:
    """Read a record of the given kind.

    Raises:
        InvalidError: It is no JSON, or a field has a wrong type.
    """
    return read(decoder_of(kind), body)


def decoder_of(kind: type[RecordT]) -> msgspec.json.Decoder[RecordT]:
    """A decoder that knows references; keep it where it is used often."""
    return msgspec.json.Decoder(kind, dec_hook=_dec_hook)


def read(decoder: msgspec.json.Decoder[ValueT], body: bytes) -> ValueT:
    """Decode, with every way to fail turned into one.

    Raises:
        InvalidError: `body` is no JSON, or a field has a wrong type.
    """
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, InvalidError, ValueError, RecursionError) as error:
        raise InvalidError(f"malformed message: {error}") from error


def to_json(value: Json) -> Json:
    """Return `value` as plain JSON values; structs, dataclasses, dates and references are turned.

    Raises:
        InvalidError: Something in it has no JSON form: bytes, NaN, keys that are no str, cycles.
    """
    if type(value) is str:
        return value
    try:
        tree = msgspec.to_builtins(value, enc_hook=_enc_hook, builtin_types=(bytes, bytearray))
        return _plain(tree)
    except RecursionError:
        raise InvalidError("content is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise InvalidError(f"content is no JSON: {error}") from error


def _plain(tree: Json) -> Json:
    """Check a tree that is ours to change, and make its tuples lists."""
    if isinstance(tree, dict):
        fields = cast("dict[object, Json]", tree)
        for key, value in fields.items():
            if not isinstance(key, str):
                raise InvalidError(f"content is no JSON: key {key!r} is not a str")
            fields[key] = _plain(value)
        return fields
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in cast("list[Json]", tree)]
    if isinstance(tree, float) and not math.isfinite(tree):
        raise InvalidError(f"content is no JSON: {tree!r} is not a number there")
    if isinstance(tree, int) and not -MAX_INTEGER <= tree < MAX_INTEGER:
        raise InvalidError(f"content is no JSON that others read: {tree} has more than 64 bits")
    if isinstance(tree, bytes | bytearray):
        raise InvalidError("content is no JSON: bytes; encode them as text, for example base64")
    return tree


def own_copy(content: Json) -> Json:
    """A copy of content (as `to_json` returns it) that its holder may change."""
    return msgspec.to_builtins(content) if isinstance(content, dict | list) else content


def printable(text: str) -> str:
    """Text as JSON can carry it: names of files may hold bytes that are no Unicode."""
    return text.encode(errors="backslashreplace").decode()


def encode_content(content: Json) -> bytes:
    """Write content (as `to_json` returns it) as JSON text.

    Raises:
        InvalidError: A string in it is no valid Unicode, or an integer has more than 64 bits.
        TooLargeError: It is above `MAX_CONTENT_BYTES`.
    """
    try:
        body = _encoder.encode(content)
    except (ValueError, OverflowError, TypeError) as error:
        raise InvalidError(f"content is no JSON: {error}") from error
    if len(body) > MAX_CONTENT_BYTES:
        raise TooLargeError(f"content of {len(body)} bytes; the limit is {MAX_CONTENT_BYTES}")
    return body


def decode_content(body: bytes) -> Json:
    """Read content that was stored as a blob.

    Raises:
        InvalidError: It is no JSON.
    """
    return read(_any_decoder, body)


def canonical(value: Json) -> bytes:
    """Return the RFC 8785 form of `value`: the same bytes for the same value in every language.

    Raises:
        InvalidError: It has no such form (NaN, integers beyond 2^53, keys that are no str).
    """
    try:
        return rfc8785.dumps(to_json(value))
    except (rfc8785.CanonicalizationError, ValueError, RecursionError) as error:
        raise InvalidError(f"inputs have no canonical JSON: {error}") from error


def content_hash(content: Json) -> str:
    """Hex SHA-256 of the canonical JSON of `content`."""
    return hashlib.sha256(canonical(content)).hexdigest()


def _enc_hook(value: object) -> object:
    if isinstance(value, Ref):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _dec_hook(kind: type, value: object) -> object:
    if kind is Ref and isinstance(value, str):
        return Ref.parse(value)
    raise TypeError(f"{value!r} is no {kind.__name__}")


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook)
_any_decoder = msgspec.json.Decoder(object)
