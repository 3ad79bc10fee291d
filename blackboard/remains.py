"""What is left of memories in files: the ids of writes, and whole revisions.

The broker writes a message as a record: its sequence and time, its subject, its headers and its
body. So a file tells whether it holds a revision of a memory, also one of which the broker knows
nothing any more. What a store compresses cannot be looked through; the stream of memories is not.
"""

import re
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from blackboard.errors import InvalidError
from blackboard.receipts import digest
from blackboard.subjects import Address

MARK = re.compile(rb"[0-9a-f]{32}")
RECORD = re.compile(rb"(?s)(mem\.[A-Za-z0-9_.-]{4,1024}?)....NATS/1\.0\r\n(.{0,8192}?)\r\n\r\n")
"""The subject, after it the length of the headers, and the headers."""
BEFORE = struct.Struct("<QqH")
"""What stands before the subject: the sequence, the time, and the subject's length."""
CHUNK = 1 << 22
OVERLAP = 10_240
"""The longest that is looked for."""
GONE = b"Bb-Gone:"


class Remains(NamedTuple):
    """What was found in the files of a directory.

    Attributes:
        looked: How many files were read.
        files: Those that hold something, relative to the directory.
        revisions: Sequences of revisions of the memories that were looked for, which may be there
            rightly: the board tells.
    """

    looked: int
    files: frozenset[str]
    revisions: dict[int, str]


def search(
    directory: Path, marks: Collection[str] = (), memories: Collection[str] = (), board: str = ""
) -> Remains:
    """Look through every file under a directory.

    Args:
        directory: Of a server's store, or of one stream in it.
        marks: Digests of the ids of writes.
        memories: Digests of the references of memories.
        board: Whose memories.

    Raises:
        OSError: A file cannot be read.
    """
    files: set[str] = set()
    revisions: dict[int, str] = {}
    looked = 0
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        looked += 1
        name = str(path.relative_to(directory))
        try:
            for block in _blocks(path):
                if marks and any(digest(one.decode()) in marks for one in MARK.findall(block)):
                    files.add(name)
                if memories:
                    revisions.update(
                        (sequence, name) for sequence in _revisions(block, memories, board)
                    )
        except FileNotFoundError:
            continue  # the broker writes its files anew beside the old ones
    return Remains(looked, frozenset(files), revisions)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        rest = b""
        while chunk := file.read(CHUNK):
            block = rest + chunk
            yield block
            rest = block[-OVERLAP:]


def _revisions(block: bytes, memories: Collection[str], board: str) -> Iterator[int]:
    """The sequences of revisions with content, also of those that are not the board's any more."""
    for found in RECORD.finditer(block):
        if found.start() < BEFORE.size:
            continue
        subject, headers = found.groups()
        sequence, _, length = BEFORE.unpack_from(block, found.start() - BEFORE.size)
        if length != len(subject) or GONE in headers:
            continue
        try:
            address = Address.parse(subject.decode())
        except InvalidError:
            continue
        if address.board == board and digest(str(address.ref)) in memories:
            yield sequence
