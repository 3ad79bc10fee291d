"""A telemetry whose records a test can look at."""

from typing import Any

from blackboard.records import SpanRecord
from blackboard.subjects import Ref
from blackboard.telemetry import Telemetry

REF = Ref("reader", "docs.section", "0" * 32, 7)
PRIVATE = "the patient's name is Ada"


def recording(
    board: str = "main", agent: str = "reader", **options: Any
) -> tuple[Telemetry, list[SpanRecord]]:
    """A telemetry, and the list that its records go to."""
    records: list[SpanRecord] = []
    return Telemetry(board, agent, f"instance-of-{agent}", records.append, **options), records


def named(records: list[SpanRecord], name: str) -> SpanRecord:
    """The one record of that name."""
    [found] = [record for record in records if record.name == name]
    return found
