"""The tree of a trace from its spans, as text; and which audit events somebody asked for.

Spans come from many processes, late, twice or not at all, with clocks that differ. So a span whose
parent is missing becomes a root that says so, a span that begins before its parent in another
process is shifted with all below it, and a root that continues spans of other traces (a group that
was merged) hangs below the latest of them. Nothing here trusts a span: parents may form a circle,
names may hold control characters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from blackboard.records import AuditEvent, SpanRecord
from blackboard.spans import ERROR_TYPE, OUTCOME
from blackboard.subjects import Pattern, Ref
from blackboard.telemetry import MESSAGE_ID, ONCE, RECORD_COUNT, RECORD_ID, REUSED, TOPIC

SHOWN = (RECORD_ID, MESSAGE_ID, TOPIC, ONCE)
"""The attributes of which the first that is there tells what a span was about."""


@dataclass(slots=True, eq=False)
class Node:
    """A span in its tree.

    Attributes:
        span: The record.
        children: By their start.
        orphan: The parent that it names is not there.
        joins: How many spans it continues by links.
        shift_ns: What is added to its times, so that it does not begin before its parent.
    """

    span: SpanRecord
    children: "list[Node]" = field(default_factory=list["Node"])
    orphan: bool = False
    joins: int = 0
    shift_ns: int = 0

    @property
    def start_ns(self) -> int:
        """When it began, on the clock of its root."""
        return self.span.start_ns + self.shift_ns

    @property
    def duration_ns(self) -> int:
        """How long it took, never negative."""
        return max(0, self.span.end_ns - self.span.start_ns)


def build(spans: Iterable[SpanRecord]) -> list[Node]:
    """Arrange spans, of one trace or of several that are linked, as trees; roots by their start.

    Spans that are given twice count once.
    """
    nodes: dict[str, Node] = {}
    for span in spans:
        nodes.setdefault(_key(span.trace, span.span), Node(span))
    above = {key: _above(node, nodes) for key, node in nodes.items()}
    _cut_circles(above)
    roots: list[Node] = []
    for key, node in nodes.items():
        parent = above[key]
        node.orphan = parent is None and node.span.parent is not None
        (roots if parent is None else nodes[parent].children).append(node)
    roots.sort(key=_begin)
    _align(roots)
    return roots


def walk(roots: Iterable[Node]) -> Iterator[tuple[int, Node]]:
    """Every node with its depth, in the order in which a tree is read."""
    waiting = [(0, node) for node in roots][::-1]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        waiting.extend((depth + 1, child) for child in reversed(node.children))


def render(roots: Iterable[Node]) -> str:
    """Write trees as text: start and duration of each span, its place, agent and end.

    Returns:
        Lines; empty when there are no spans.
    """
    trees = list(roots)
    nodes = [node for _, node in walk(trees)]
    if not nodes:
        return ""
    first = min(node.start_ns for node in trees)
    last = max(node.start_ns + node.duration_ns for node in nodes)
    agents = {node.span.agent for node in nodes}
    errors = sum(node.span.error is not None for node in nodes)
    counts = (_many(len(nodes), "span"), _many(len(agents), "agent"), _many(errors, "error"))
    lines = [
        f"trace {_clean(trees[0].span.trace)}: {', '.join(counts)}, {_time(last - first)}",
        "     start  duration",
    ]
    lines += (
        f"{_time(node.start_ns - first):>10} {_time(node.duration_ns):>9}  {lead}{_line(node)}"
        for lead, node in _leads(trees)
    )
    return "\n".join(lines)


def matching(
    events: Iterable[AuditEvent],
    *,
    about: Ref | Pattern | None = None,
    agent: str | None = None,
    act: str | None = None,
    outcome: str | None = None,
    trace: str | None = None,
) -> Iterator[AuditEvent]:
    """The events that fit all that is given; equal ones, from a batch stored twice, once.

    Args:
        events: In the order of the stream.
        about: A reference selects its memory, whatever the revision, unless it is pinned. A pattern
            selects references by their topic, and watches of exactly this pattern.
        agent: Who did it.
        act: What was done.
        outcome: How it ended; `ok` for what succeeded.
        trace: 32 hex digits.
    """
    seen: set[AuditEvent] = set()
    wanted = [
        (name, value)
        for name, value in (("agent", agent), ("act", act), ("outcome", outcome), ("trace", trace))
        if value is not None
    ]
    for event in events:
        fits = all(getattr(event, name) == value for name, value in wanted)
        if fits and _is_about(event, about) and event not in seen:
            seen.add(event)
            yield event


def _is_about(event: AuditEvent, about: Ref | Pattern | None) -> bool:
    if about is None:
        return True
    if isinstance(about, Pattern) and event.what == about.text:
        return True
    agent, slash, rest = event.what.partition("/")
    topic, _, name = rest.partition("/")
    if not slash:
        return False
    if isinstance(about, Pattern):
        return about.matches(topic)
    identifier, _, pin = name.partition("@")
    same = (agent, topic, identifier) == (about.agent, about.topic, about.id)
    pinned = about.revision
    return same and (pinned is None or pinned == event.revision or str(pinned) == pin)


def _above(node: Node, nodes: dict[str, Node]) -> str | None:
    """The key of the node that this one hangs below: its parent, else the latest it continues."""
    span = node.span
    known = [link.replace("-", "/", 1) for link in span.links]
    known = [key for key in known if key in nodes]
    node.joins = len(span.links)
    if span.parent is not None:
        key = _key(span.trace, span.parent)
        return key if key in nodes else None
    return max(known, key=lambda key: nodes[key].span.end_ns, default=None)


def _cut_circles(above: dict[str, str | None]) -> None:
    """Make a root of one span in each circle."""
    safe: set[str] = set()
    for key in above:
        path: dict[str, None] = {}
        current: str | None = key
        while current is not None and current not in safe:
            path[current] = None
            following = above[current]
            if following in path:
                above[current] = following = None
            current = following
        safe.update(path)


def _align(roots: list[Node]) -> None:
    """Sort children, and shift what begins before its parent in another process."""
    for root in roots:
        root.shift_ns = 0
    for _, node in walk(roots):  # goes down after the loop's body, so children are in order then
        for child in node.children:
            if child.span.instance == node.span.instance:
                child.shift_ns = node.shift_ns
            else:
                child.shift_ns = max(0, node.start_ns - child.span.start_ns)
        node.children.sort(key=_begin)


def _leads(roots: list[Node]) -> Iterator[tuple[str, Node]]:
    """Each node with the lines of the tree that stand before it."""
    waiting = [("", "", node) for node in reversed(roots)]
    while waiting:
        lead, below, node = waiting.pop()
        yield lead, node
        last = len(node.children) - 1
        for index in range(last, -1, -1):
            ends = index == last
            waiting.append(
                (
                    below + ("└─ " if ends else "├─ "),
                    below + ("   " if ends else "│  "),
                    node.children[index],
                )
            )


def _line(node: Node) -> str:
    span, attributes = node.span, node.span.attributes
    parts = [span.name, f"[{span.agent}]"]
    about = next((attributes[name] for name in SHOWN if name in attributes), None)
    if about is not None:
        parts.append(str(about))
    count = attributes.get(RECORD_COUNT)
    if count is not None:
        parts.append(f"({count})")
    if REUSED in attributes:
        parts.append("reused" if attributes[REUSED] else "made")
    if node.joins:
        parts.append(f"⇐ {_many(node.joins, 'span')}")
    if node.shift_ns:
        parts.append(f"(clock +{_time(node.shift_ns)})")
    if node.orphan:
        parts.append("(its parent is not on the board)")
    if span.error is not None:
        parts.append(f"✗ {span.error or attributes.get(ERROR_TYPE, '')}")
    elif OUTCOME in attributes:
        parts.append(f"→ {attributes[OUTCOME]}")
    return _clean(" ".join(parts))


def _time(ns: int) -> str:
    if ns >= 10_000_000_000:
        return f"{ns / 1e9:.1f} s"
    if ns >= 1_000_000_000:
        return f"{ns / 1e9:.2f} s"
    return f"{ns / 1e6:.1f} ms"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _clean(text: str) -> str:
    """Without control characters, which could rewrite the reader's terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _key(trace: str, span: str) -> str:
    return f"{trace}/{span}"


def _begin(node: Node) -> int:
    return node.start_ns
