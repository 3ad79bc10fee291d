"""Large content, cut into chunks in a stream of its own.

The chunks are stored before the memory that names them, so a reader who sees the memory can read
the content; chunks that no memory names after a day are removed by the steward. The broker's own
object store is not used because it needs rollup, with which any writer could wipe it.
"""

import hashlib
import uuid

from blackboard.envelope import EXPECTED
from blackboard.errors import GoneError, InvalidError
from blackboard.jetstream import Outgoing
from blackboard.log import Log
from blackboard.messages import Blob
from blackboard.subjects import blob_subject, check_name, is_id

CHUNK_BYTES = 512 * 1024
BATCH_CHUNKS = 32
"""Chunks in one atomic batch: 16 MiB on the way at once."""


async def store_blob(log: Log, access: str, body: bytes) -> Blob:
    """Upload content and return what a memory has to say of it; on disk when this returns.

    Args:
        log: Whose agent is the author of the chunks.
        access: The label of the memory that will name it.
        body: The content as JSON text.

    Raises:
        BoardFullError: No room; chunks already stored are removed by the steward.
        UnavailableError: No answer within 10 s for 16 MiB of it.
    """
    identifier = uuid.uuid4().hex
    chunks = [body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES)]
    for first in range(0, len(chunks), BATCH_CHUNKS):
        await log.upload(
            [
                Outgoing(
                    blob_subject(log.board, access, log.agent, identifier, first + number),
                    chunk,
                    {"Bb-Agent": log.agent, "Bb-Write": identifier, EXPECTED: "0"},
                )
                for number, chunk in enumerate(chunks[first : first + BATCH_CHUNKS])
            ]
        )
    digest = hashlib.sha256(body).hexdigest()
    return Blob(identifier, len(body), len(chunks), digest, log.agent)


async def load_blob(log: Log, access: str, blob: Blob, what: str) -> bytes:
    """Read content back and check that it is whole.

    Raises:
        GoneError: A chunk is missing: it was erased with its memory.
        InvalidError: The bytes are not those that were stored.
        UnavailableError: No answer in time.
    """
    if not is_id(blob.id):
        raise InvalidError(f"{what} names a blob {blob.id!r}, which is none")
    check_name(f"{what}: the agent of its blob,", blob.agent)
    chunks: list[bytes] = []
    for number in range(blob.chunks):
        subject = blob_subject(log.board, access, blob.agent, blob.id, number)
        message = await log.chunks.last(subject)
        if message is None:
            raise GoneError(what, "forgotten")
        chunks.append(message.data)
    body = b"".join(chunks)
    if len(body) != blob.size or hashlib.sha256(body).hexdigest() != blob.sha256:
        raise InvalidError(f"the content of {what} is not what its author stored")
    return body
