"""JSON Schemas of everything on the wire, written from the structs that the library itself uses.

`python -m blackboard.schemas` writes `schemas/*.schema.json`; `--check` only compares, and fails on
a difference. They are generated so that they cannot say anything else than the code does; the
descriptions are the docstrings. Examples and vectors are recorded by their hash: agents in other
languages test themselves against them, so one that was published is never changed.
"""

import ast
import hashlib
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from blackboard.access.rights import Grant, Quota, Rights
from blackboard.ledger.history import Access
from blackboard.messages import Blob, Cost, Memory, Payload
from blackboard.records import (
    ApiRequest,
    AuditBatch,
    AuditEvent,
    Card,
    DeadLetter,
    GroupRecord,
    HandlerRecord,
    Lease,
    Retry,
    RunRecord,
    ServedMessage,
    ServedMessages,
    SpanBatch,
    SpanRecord,
)
from blackboard.report.document import (
    Forgotten,
    Head,
    Held,
    Noted,
    Proof,
    Reader,
    Report,
    Revision,
    Summary,
)
from blackboard.retention import Retention, Rule
from blackboard.search import QueryAnswer, QueryRequest, RecallAnswer, RecallRequest
from blackboard.subjects import Ref

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SUMS = "SHA256SUMS"

_NAME = r"[a-z0-9_]+(?:-[a-z0-9_]+)*"
_TOPIC = r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64})*"
_ID = r"[0-9a-f]{32}"
_PIN = r"@[1-9][0-9]{0,18}"
REFERENCE: Final = (
    r"^(?=[^/]{1,64}/[^/]{1,512}/)(?!\*/[^/]*/" + _ID + r"(?:@|$))"
    r"(?:\*|" + _NAME + ")/" + _TOPIC + r"/[A-Za-z0-9_-]{1,128}(?:" + _PIN + r")?$"
)
"""A reference; `<agent>/<topic>/<key>` is read as `*/<topic>/<key>` and never written."""
MOMENT: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})$"
)
"""RFC 3339 with its offset; writers write UTC with six digits."""

AgentName = Annotated[str, Meta(pattern=r"^(?=.{1,64}$)" + _NAME + "$")]
Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Number = Annotated[str, Meta(pattern=r"^[0-9]+$")]
Whole = Annotated[str, Meta(pattern=r"^[1-9][0-9]*$")]


_NAMES: Final = {
    "expected": "Nats-Expected-Last-Subject-Sequence",
    "expected_over": "Nats-Expected-Last-Subject-Sequence-Subject",
    "ttl": "Nats-TTL",
    "operation": "KV-Operation",
    "traceparent": "traceparent",
}


class Headers(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename=lambda name: _NAMES.get(name, name.title().replace("_", "-")),
):
    """The headers of a memory's message as its writer sends them; every value is text.

    Readers need `Bb-Agent` only. The broker adds headers of its own to what is got directly.
    """

    bb_agent: AgentName
    """Who wrote it; the same as the agent token of the subject."""
    bb_instance: Hex
    """The process that wrote it."""
    bb_write: Hex
    """This write; after a lost answer its writer knows by it whether it was stored."""
    expected: Number
    """The sequence that must be the last on the subject, or over the filter below; 0 for none."""
    expected_over: str | UnsetType = UNSET
    """Shared state only: `mem.<board>.*.*.<topic>.<key>`."""
    bb_expires: Annotated[str, Meta(pattern=MOMENT)] | UnsetType = UNSET
    """When the memory ends; every reader filters by it."""
    bb_gone: Literal["retired", "forgotten", "moved"] | UnsetType = UNSET
    """Makes this revision a tombstone, which has no body."""
    bb_reason: str | UnsetType = UNSET
    """Why it was taken back, percent-encoded UTF-8."""
    bb_cause: (
        Annotated[str, Meta(pattern=r"^\S+@[1-9][0-9]* \S+?--\S+ v.* run[0-9]{1,12}$")] | UnsetType
    ) = UNSET
    """What a handler made it from: `<input>@<revision> <agent>--<handler> v<version> run<n>`."""
    bb_origin: Annotated[str, Meta(pattern=r"^[^/]+/[1-9][0-9]*/[^/]+$")] | UnsetType = UNSET
    """On a copy: `<board>/<revision>/<stored>` of the outermost original."""
    bb_by: str | UnsetType = UNSET
    """Who acted, when the steward writes on an agent's subject."""
    ttl: Whole | UnsetType = UNSET
    """Seconds after which the broker drops it; `Bb-Expires` minus now, rounded up, or more."""
    operation: Literal["DEL"] | UnsetType = UNSET
    """On tombstones of topics under `state.`, for the key-value projection."""
    traceparent: str | UnsetType = UNSET
    """W3C trace context."""


TYPES: Final[dict[str, type[msgspec.Struct]]] = {
    "memory": Payload,
    "headers": Headers,
    "lease": Lease,
    "handler-record": HandlerRecord,
    "group-record": GroupRecord,
    "run-record": RunRecord,
    "card": Card,
    "dead-letter": DeadLetter,
    "retry": Retry,
    "audit-batch": AuditBatch,
    "span-batch": SpanBatch,
    "recall-request": RecallRequest,
    "recall-answer": RecallAnswer,
    "query-request": QueryRequest,
    "query-answer": QueryAnswer,
    "rights": Rights,
    "api-request": ApiRequest,
    "served-messages": ServedMessages,
    "report": Report,
    "retention-policy": Retention,
}
"""Every message, and the one document, by the name of its schema."""

_PARTS: Final = (
    *TYPES.values(),
    *(Blob, Cost, AuditEvent, SpanRecord, Grant, Quota, ServedMessage, Rule),
    *(Access, Held, Revision, Noted, Forgotten, Reader, Summary, Proof),
)


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of one message, with the structs it is made of."""
    schema = msgspec.json.schema(TYPES[name], schema_hook=_schema_of_type)
    for part in _PARTS:
        described = schema["$defs"].get(part.__name__)
        if described is not None:
            _describe(part, described)
    return {"$schema": DIALECT, "$id": f"urn:blackboard-agents:{name}", **schema}


def _schema_of_type(kind: type) -> dict[str, Any]:
    if kind is Ref:
        return {"type": "string", "pattern": REFERENCE}
    raise TypeError(f"{kind.__name__} has no JSON Schema")


def _describe(part: type[msgspec.Struct], schema: dict[str, Any]) -> None:
    schema["description"] = inspect.cleandoc(schema["description"])
    words = _words(part)
    for field in msgspec.structs.fields(part):
        said: dict[str, Any] = schema["properties"][field.encode_name]
        if field.name in words:
            said["description"] = words[field.name]
        if datetime in _types(field.type):
            for choice in said.get("anyOf", [said]):
                if choice.get("type") == "string":
                    choice.update(format="date-time", pattern=MOMENT)


def _types(annotation: object) -> list[object]:
    """The types in an annotation, through unions and `Annotated`."""
    inner = typing.get_args(annotation)
    return [annotation, *(found for one in inner for found in _types(one))]


def _words(part: type[msgspec.Struct]) -> dict[str, str]:
    """What the source says of each field: the text below it, or under `Attributes:`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
    lines = tree.body if isinstance(tree, ast.ClassDef) else []
    words: dict[str, str] = {}
    for field, below in pairwise(lines):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    words[field.target.id] = " ".join(text.split())
                case _:
                    pass
    # Payload's fields are told where readers look for them.
    told = inspect.getdoc(Memory if part is Payload else part) or ""
    if part is Report:
        told = f"{inspect.getdoc(Head)}\n{told}"
    return words | dict(re.findall(r"^ {4}(\w+): (.+)$", told, re.MULTILINE))


def text_of(name: str) -> str:
    """The text of one schema's file, the same on every machine."""
    body = msgspec.json.encode(schema_of(name))
    return msgspec.json.format(body, indent=2).decode() + "\n"


def write(directory: Path, *, check: bool) -> list[str]:
    """Write the schemas and record new examples and vectors; with `check`, change nothing.

    Args:
        directory: `schemas/`.
        check: Only compare.

    Returns:
        What was not as it should be, one line each; without `check`, only what cannot be mended.
    """
    files = {directory / f"{name}.schema.json": text_of(name) for name in TYPES}
    problems: list[str] = []
    for kind, found in (("examples", _examples(directory)), ("vectors", _vectors(directory))):
        record = directory / kind / SUMS
        files[record], changed = _sums(record, found)
        problems += [
            f"{kind}/{name} was changed or removed; {kind} are only ever added" for name in changed
        ]
    problems += [
        f"{path.name} is no message's schema"
        for path in directory.glob("*.schema.json")
        if path not in files
    ]
    for path, text in files.items():
        if check and (not path.exists() or path.read_text() != text):
            problems.append(f"{path.name} is out of date; run `python -m blackboard.schemas`")
        elif not check:
            path.write_text(text)
    return problems


def _examples(directory: Path) -> dict[str, str]:
    """The hash of each example, by its path."""
    examples = directory / "examples"
    return {
        path.relative_to(examples).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in examples.glob("*/*.json")
    }


def _vectors(directory: Path) -> dict[str, str]:
    """The hash of each vector, by its file, list and place in that, as new ones come last."""
    found: dict[str, str] = {}
    for path in (directory / "vectors").glob("*.json"):
        lists = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Any] | str])
        for kind, entries in lists.items():
            if kind == "about":  # it explains them
                continue
            for number, entry in enumerate([entries] if isinstance(entries, str) else entries):
                body = msgspec.json.encode(entry, order="sorted")
                found[f"{path.name} {kind} {number:03}"] = hashlib.sha256(body).hexdigest()
    return found


def _sums(record: Path, found: dict[str, str]) -> tuple[str, list[str]]:
    """The text of a record of hashes, and what in it was changed or removed."""
    lines = record.read_text().splitlines() if record.exists() else []
    known = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    changed = [name for name, digest in known.items() if found.get(name) != digest]
    both = sorted((found | known).items())
    return "".join(f"{digest}  {name}\n" for name, digest in both), changed


def main(arguments: Sequence[str]) -> int:
    """Write `schemas/` beside the package, or `--check` it; returns the exit code."""
    directory = Path(__file__).parents[1] / "schemas"
    problems = write(directory, check="--check" in arguments)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
