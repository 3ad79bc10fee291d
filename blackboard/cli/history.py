"""Commands that look back: trace, explain."""

import re
from datetime import UTC, datetime

from blackboard import trace as traces
from blackboard.batches import each_span_batch
from blackboard.board import Blackboard
from blackboard.cli.output import clean, fields, say, say_json, warn, when
from blackboard.cli.place import HERE, Place, opened
from blackboard.clock import now
from blackboard.codec import Json
from blackboard.errors import InvalidError, NotFoundError
from blackboard.explain import Explanation, Origin, Use, explain as explained, trace_of
from blackboard.jetstream import Start
from blackboard.records import SpanBatch, SpanRecord
from blackboard.subjects import Ref
from blackboard.times import parse_duration

_TRACE = re.compile(r"[0-9a-f]{32}\Z")
MAX_TRACES = 50
"""Linked traces that are shown as one tree."""
SHOWN_USES = 20


async def trace(identifier: str, /, *, since: str = "7d", place: Place = HERE) -> None:
    """Show a trace as a tree, with durations.

    Args:
        identifier: 32 hex digits, a traceparent, or the reference of a memory written in it.
        since: How far back spans are looked for, like 1h; they are kept for 7 days.
        place: The board.
    """
    start = Start.at(now() - parse_duration(since, "--since"))
    async with opened(place) as board:
        wanted = await _identify(board, identifier)
        spans, lost = await _collect(board, wanted, start)
    if not spans:
        raise NotFoundError(
            f"no span of trace {wanted} on board {board.name!r}; they are written within 250 ms "
            "and kept for 7 days"
        )
    roots = traces.build(spans)
    if place.as_json:
        say_json([_node(root) for root in roots])
    else:
        say(traces.render(roots))
    if lost and any(root.orphan for root in roots):
        warn(f"{lost} spans were lost in this time; those that are missing here may be among them")


async def _identify(board: Blackboard, identifier: str) -> str:
    if "/" in identifier:
        memory = await board.get(Ref.parse(identifier))
        found = trace_of(memory)
        if found is None:
            raise NotFoundError(f"{memory.pinned} was written outside of any trace")
        return found
    parts = identifier.lower().split("-")
    digits = parts[1] if len(parts) == 4 else parts[0]
    if not _TRACE.match(digits):
        raise InvalidError(
            f"{identifier!r} is no trace; give its 32 hex digits, or the reference of a memory"
        )
    return digits


async def _collect(board: Blackboard, wanted: str, start: Start) -> tuple[list[SpanRecord], int]:
    """The spans of a trace and of those it is linked with, and how many spans were lost."""
    lost = 0
    linked: dict[str, set[str]] = {}
    found: list[SpanRecord] = []

    def link(batch: SpanBatch) -> None:
        nonlocal lost
        lost += batch.dropped
        for span in batch.spans:
            if span.trace == wanted:
                found.append(span)
            for other in {name.partition("-")[0] for name in span.links} - {span.trace}:
                linked.setdefault(span.trace, set()).add(other)
                linked.setdefault(other, set()).add(span.trace)

    await each_span_batch(board, start, link)
    together = _connected(wanted, linked)
    if len(together) == 1:
        return found, lost
    found.clear()

    def take(batch: SpanBatch) -> None:
        found.extend(span for span in batch.spans if span.trace in together)

    await each_span_batch(board, start, take)
    return found, lost


def _connected(wanted: str, linked: dict[str, set[str]]) -> set[str]:
    together, waiting = {wanted}, [wanted]
    while waiting and len(together) < MAX_TRACES:
        for other in sorted(linked.get(waiting.pop(), set()) - together):
            together.add(other)
            waiting.append(other)
    return together


def _node(node: traces.Node) -> dict[str, Json]:
    span = node.span
    return {
        "trace": span.trace,
        "span": span.span,
        "name": span.name,
        "kind": span.kind,
        "agent": span.agent,
        "instance": span.instance,
        "start": datetime.fromtimestamp(node.start_ns / 1e9, UTC),
        "duration_ms": node.duration_ns / 1e6,
        "attributes": span.attributes,
        "error": span.error,
        "links": list(span.links),
        "orphan": node.orphan,
        "children": [_node(child) for child in node.children],
    }


async def explain(reference: str, /, *, depth: int = 6, place: Place = HERE) -> None:
    """Explain a memory: made by whom, from what, at what cost, reused by whom.

    Args:
        reference: AGENT/TOPIC/ID or */TOPIC/KEY, optionally followed by @REVISION.
        depth: How far sources of sources are followed.
        place: The board.
    """
    ref = Ref.parse(reference)
    async with opened(place) as board:
        explanation = await explained(board, ref, depth=depth)
    if place.as_json:
        say_json(explanation)
    else:
        _print_explanation(explanation)


def _print_explanation(explanation: Explanation) -> None:
    memory, shows = explanation.memory, explanation.memory.shows
    say(memory.ref)
    fields(
        {
            "by": f"agent {memory.agent}{_handler(memory)}",
            "on": when(memory.stored),
            "because of": memory.input,
            "session": memory.session,
            "shows": None if shows is None else f"{shows.ref}, made by {shows.agent}",
            "cost": memory.spent,
            "all in all": explanation.total if explanation.total.calls else None,
            "trace": memory.trace,
        }
    )
    if memory.made_from or memory.cut:
        say()
        say("made from")
        _tree(memory, 1)
    _uses("shown by", explanation.shown_by)
    if any(use.kind == "reuse" for use in explanation.shown_by):
        say(f"  which saved {explanation.saved}")
    _uses("used by", explanation.used_by)
    if not explanation.complete:
        say()
        say("The board is too long to look for all uses; there may be more.")


def _handler(origin: Origin) -> str:
    if origin.handler is None:
        return ""
    return f", handler {origin.handler}, version {origin.version}, run {origin.run}"


def _tree(origin: Origin, depth: int) -> None:
    indent = "  " * depth
    for source in origin.made_from:
        notes = [source.ref]
        if source.state != "ok":
            notes.append(f"({source.state})")
        if source.agent:
            notes.append(f"by {source.agent}{_handler(source)}")
        if source.spent is not None:
            notes.append(f"[{source.spent}]")
        if source.seen:
            notes.append("(see above)")
        say(clean(indent + " ".join(notes)))
        _tree(source, depth + 1)
    if origin.cut:
        say(f"{indent}… and more")


def _uses(title: str, uses: list[Use]) -> None:
    if not uses:
        return
    say()
    say(f"{title} {len(uses)}")
    for use in uses[:SHOWN_USES]:
        session = f"  session {use.session}" if use.session else ""
        say(clean(f"  {use.ref}  {use.kind}{session}"))
    if len(uses) > SHOWN_USES:
        say(f"  … and {len(uses) - SHOWN_USES} more (--json lists all)")
