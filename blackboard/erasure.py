"""Holding a receipt against what there is: on the board, and in the files of its servers.

A receipt is somebody's word; this looks. Through the broker: that the receipt is signed and whole,
that nothing it lists can be read, and that nothing made from it is there. In files, which only who
is on their machine can read: that no write that it lists left its id, which lies beside the content
in the store and in the log of each replica, and that no revision of a memory that it lists is
there which the board does not know any more.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from blackboard.errors import InvalidError, SettingsError
from blackboard.ledger.key import is_signed
from blackboard.lineage import Lineage
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.oblivion import Oblivion
from blackboard.receipts import Part, Receipt, sequences_of
from blackboard.remains import search

SHOWN = 10


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        name: signature, parts, streams, lineage or files.
        clean: Nothing speaks against it.
        text: What was found.
    """

    name: str
    clean: bool
    text: str


async def verify(log: Log, receipt: Receipt, files: Sequence[Path] = ()) -> list[Finding]:
    """Hold a receipt against the board, and against directories of its servers.

    Args:
        log: The board.
        receipt: As it stands there, or as somebody kept it.
        files: JetStream's directories on this machine, or copies of them, such as backups.

    Raises:
        UnavailableError: The broker does not answer.
        SettingsError: A directory cannot be read.
    """
    findings = [_signature(receipt, log.board)]
    try:
        parts = await Oblivion(log).parts(receipt)
    except InvalidError as error:
        return [*findings, Finding("parts", False, str(error))]  # noqa: FBT003
    findings.append(Finding("parts", True, f"{len(parts)}, as they were signed"))  # noqa: FBT003
    findings.append(await _streams(log, parts))
    findings.append(await _lineage(log))
    return [*findings, *[await _files(log, directory, parts) for directory in files]]


def _signature(receipt: Receipt, board: str) -> Finding:
    if receipt.board != board:
        text = f"it is of board {receipt.board!r}"
        return Finding("signature", False, text)  # noqa: FBT003
    if not receipt.signature:
        return Finding("signature", False, "it is not signed")  # noqa: FBT003
    good = is_signed(receipt.key, receipt.statement(), receipt.signature)
    text = f"by {receipt.key}" if good else f"not by {receipt.key}: it was changed"
    return Finding("signature", good, text)


async def _streams(log: Log, parts: Iterable[Part]) -> Finding:
    there: list[str] = []
    looked = 0
    for part in parts:
        for sequence in sequences_of(part.ranges):
            looked += 1
            if await log.connection.leader_at_sequence(part.store, sequence) is not None:
                there.append(f"{part.store} {sequence}")
    text = f"none of {looked} messages can be read"
    if there:
        text = f"{len(there)} of {looked} messages are there: {', '.join(there[:SHOWN])}"
    return Finding("streams", not there, text)


async def _lineage(log: Log) -> Finding:
    def nothing(_: Memory) -> bool:
        return False

    lineage = Lineage(log, nothing)
    await lineage.close()
    if lineage.found:
        some = ", ".join(f"{ref} ({why})" for ref, why in [*lineage.found.items()][:SHOWN])
        text = f"{len(lineage.found)} memories were made from what was forgotten: {some}"
        return Finding("lineage", False, text)  # noqa: FBT003
    return Finding(
        "lineage",
        True,  # noqa: FBT003
        f"none of {lineage.scanned} revisions on the board was made from what was forgotten",
    )


async def _files(log: Log, directory: Path, parts: Sequence[Part]) -> Finding:
    """Look for the ids of writes, and for lost revisions, in every file under a directory."""
    if not await anyio.Path(directory).is_dir():
        raise SettingsError(f"{str(directory)!r} is no directory; name JetStream's store_dir")
    marks = {mark for part in parts for mark in part.marks}
    memories = {ref for part in parts for ref in part.refs}
    try:
        remains = await anyio.to_thread.run_sync(search, directory, marks, memories, log.board)
    except OSError as error:
        raise SettingsError(f"cannot read {error.filename!r} ({error.strerror})") from error
    lost = {
        file
        for sequence, file in remains.revisions.items()
        if await log.connection.leader_at_sequence(log.stream, sequence) is None
    }
    text = f"none of {remains.looked} files in {directory} holds any of {len(marks)} writes"
    found = sorted(remains.files | lost)
    if found:
        some = ", ".join(found[:SHOWN])
        text = f"{len(found)} of {remains.looked} files in {directory} do: {some}"
    return Finding("files", not found, text)
