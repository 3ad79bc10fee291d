"""The report as JSON: one document, written piece by piece, one entry of a list to a line."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from blackboard.codec import encode_record
from blackboard.report.document import Held
from blackboard.report.gather import Gathered, Line
from blackboard.report.kin import Part


def write_tree(report: Gathered, out: BinaryIO) -> None:
    """Write the document that `Report` describes.

    Raises:
        OSError: The disk is full.
        SettingsError: What was gathered cannot be read again.
    """
    out.write(encode_record(report.head)[:-1])
    for part in Part:
        _list(out, part.value, _memories(report, part))
    _list(out, "accesses", report.spool.accesses())
    _list(out, "noted", report.spool.others("noted"))
    _list(out, "spans", report.spool.others("spans"))
    out.write(b"}\n")


def _list(out: BinaryIO, name: str, entries: Iterable[bytes]) -> None:
    out.write(b',\n"' + name.encode() + b'":[')
    for number, entry in enumerate(entries):
        out.write(b",\n" if number else b"\n")
        out.write(entry)
    out.write(b"]")


def _memories(report: Gathered, part: Part) -> Iterator[bytes]:
    lines = report.lines[part]
    open_at = -1
    body = bytearray()
    for kept in report.spool.revisions(part.value):
        if kept.memory != open_at:
            if body:
                yield bytes(body) + b"]}"
            open_at = kept.memory
            body = bytearray(_head(lines[open_at]))
        else:
            body += b","
        body += kept.body
    if body:
        yield bytes(body) + b"]}"


def _head(line: Line) -> bytes:
    held = Held(ref=line.ref, state=line.state, because=line.because)
    return encode_record(held)[:-1] + b',"revisions":['
