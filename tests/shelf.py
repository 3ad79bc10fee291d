"""A place for a journal's messages, and ways to run one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from blackboard.journal import Journal, read_audit, read_spans
from blackboard.records import AuditBatch, SpanBatch, SpanRecord


class Shelf:
    """Where messages go that are not sent to a broker; raises what it is given to raise."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.tried: list[tuple[str, bytes]] = []
        self.broken: Exception | None = None

    async def publish(self, subject: str, body: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.tried.append((subject, body))
        if self.broken is not None:
            raise self.broken
        self.messages.append((subject, body))

    @property
    def audits(self) -> list[AuditBatch]:
        return [read_audit(*one) for one in self.messages if one[0].startswith("audit.")]

    @property
    def spans(self) -> list[SpanBatch]:
        return [read_spans(*one) for one in self.messages if one[0].startswith("spans.")]

    @property
    def whats(self) -> list[str]:
        return [event.what for batch in self.audits for event in batch.events]


@asynccontextmanager
async def running(*journals: Journal) -> AsyncGenerator[None]:
    """Run journals; leaving cancels them, as the end of a board does."""
    async with anyio.create_task_group() as group:
        for journal in journals:
            group.start_soon(journal.run)
        yield
        group.cancel_scope.cancel()


def span(name: str = "get_memory", **fields: Any) -> SpanRecord:
    fields = {"agent": "a", **fields}
    return SpanRecord(
        trace="a" * 32,
        span="b" * 16,
        name=name,
        kind="client",
        start_ns=1,
        end_ns=2,
        instance="1",
        **fields,
    )
