"""The sections of a page around the memories: in numbers, who read them, and what else there is."""

from collections.abc import Iterable, Iterator

from blackboard.codec import decode_record
from blackboard.ledger.history import Access
from blackboard.report.document import Head, Noted, Proof
from blackboard.report.gather import Gathered
from blackboard.report.markup import count, facts, joined, moment, paragraph, safe, section, table

ACCESSES = 2_000
"""And as many notes, in a page: the newest."""
STATES = {
    "there": "on the board",
    "expired": "expired, not removed yet",
    "retired": "taken back",
    "moved": "moved",
    "forgotten": "forgotten",
}
_SAYS = {"broker": "the message broker", "steward": "the board's steward", "itself": "itself"}
_WORDS = (
    ("Board", "the shared memory of a group of programs."),
    ("Agent", "one of the programs that write to the board and read from it."),
    ("Memory", "one thing that an agent wrote down."),
    ("Topic", "what a memory is about, like a folder."),
    ("Label", "who may read it: agents need the right to a label."),
    ("Revision", "one version of a memory. Each has a number that counts over the whole board."),
    ("Derived", "made by a program from memories about this person."),
)


def summary(head: Head) -> Iterator[str]:
    """The report in numbers."""
    numbers = head.summary
    yield section("summary", "Summary")
    states = ", ".join(f"{n:,} {STATES[state]}" for state, n in numbers.states.items())
    accessed = {one.agent for one in numbers.readers if one.outcome == "ok"}
    yield facts(
        {
            "Memories": f"{numbers.memories:,}" + (f": {states}" if states else ""),
            "Revisions of them": f"{numbers.revisions:,}",
            "First stored": moment(numbers.first),
            "Last stored": moment(numbers.last),
            "Derived from them": count(numbers.derived, "memory", "memories"),
            "Accessed by": count(len(accessed), "agent")
            + (", on record " + count(numbers.accesses, "time") if accessed else ""),
            "Forgotten": count(len(head.forgotten), "order") if head.forgotten else "nothing",
            "Copies known": f"{len(head.copies):,}",
        }
    )
    for note in head.notes:
        yield paragraph(note, "note")
    for caption, first, counts in (
        ("Memories by topic", "Topic", numbers.topics),
        ("Revisions by agent that wrote them", "Agent", numbers.agents),
        ("Revisions by label", "Label", numbers.labels),
    ):
        yield table(
            caption, (first, "Number"), [((name, f"{n:,}"), "") for name, n in counts.items()]
        )
    yield table(
        "Who accessed them, how often",
        ("Agent", "What it did", "Says who", "Times", "First (UTC)", "Last (UTC)", "Outcome"),
        [
            (
                (
                    one.agent,
                    one.act,
                    _SAYS.get(one.source, one.source),
                    f"{one.times:,}",
                    moment(one.first),
                    moment(one.last),
                    one.outcome,
                ),
                "" if one.outcome == "ok" else "bad",
            )
            for one in numbers.readers
        ],
        empty="No access is on record.",
    )
    yield "</section>"


def accesses(report: Gathered, tree: str) -> Iterator[str]:
    """Who read it."""
    head = report.head
    yield section("accesses", "Who read it, or acted on it")
    yield from _proof(head.ledger)
    if head.lost:
        yield paragraph(
            f"Agents could not write down {head.lost:,} accesses, of whatever memory.",
            "note bad",
        )
    if head.summary.accesses > ACCESSES:
        yield paragraph(
            f"The newest {ACCESSES:,} of {head.summary.accesses:,}. All of them are in {tree}.",
            "note",
        )
    rows = (decode_record(body, Access) for body in report.spool.accesses(ACCESSES))
    yield table(
        "Accesses, by time",
        ("Time (UTC)", "Agent", "What it did", "What", "Times", "Outcome", "Says who"),
        [(_cells(row), "" if row.outcome == "ok" else "bad") for row in rows],
        empty="No access is on record.",
    )
    yield "</section>"


def _proof(proof: Proof | None) -> Iterator[str]:
    if proof is None:
        yield paragraph(
            "This board has no ledger, so the broker recorded no reads. What follows is what "
            "the programs say of themselves; a program that says nothing is not in it.",
            "note bad",
        )
    elif proof.findings:
        yield paragraph("The record of accesses cannot be relied on:", "note bad")
        yield _items(proof.findings)
    else:
        yield paragraph(
            f"The record of accesses (ledger, {proof.records:,} entries) is whole and "
            f"unaltered, signed up to entry {proof.signed:,} with the key {proof.key}.",
            "note good",
        )
    if proof is not None and proof.gaps:
        yield paragraph("It says itself that something is missing:", "note")
        yield _items(proof.gaps)


def noted(report: Gathered, tree: str) -> Iterator[str]:
    """What programs noted about it."""
    yield section("noted", "How it was processed")
    head = report.head
    if head.summary.noted > ACCESSES:
        yield paragraph(
            f"The newest {ACCESSES:,} of {head.summary.noted:,}. All of them are in {tree}.",
            "note",
        )
    rows = (decode_record(body, Noted) for body in report.spool.others("noted", ACCESSES))
    yield table(
        "What programs noted about these memories",
        ("Time (UTC)", "Agent", "Did", "Memory", "Handler", "Said", "Made"),
        [
            (
                (
                    moment(one.at),
                    one.agent,
                    one.what,
                    str(one.ref),
                    one.by,
                    one.text.partition("\n")[0],
                    joined(one.outputs) or "",
                ),
                "bad" if one.what == "failed" else "",
            )
            for one in rows
        ],
        empty="Nothing is noted.",
    )
    if head.summary.noted:
        yield paragraph(f"Where in a program an error was raised is in {tree}.")
    spans = head.summary.spans
    if spans:
        yield paragraph(
            f"{count(spans, 'measurement')} of work (spans) name these memories, without what "
            f"they say; they are in {tree}."
        )
    yield "</section>"


def forgotten(head: Head) -> Iterator[str]:
    """What was forgotten: the fact."""
    yield section("forgotten", "What was forgotten")
    yield table(
        "Orders to forget that named this person or a memory above, without what it said",
        ("Asked (UTC)", "By", "Reason", "State", "Memories", "Done (UTC)", "Receipt"),
        [
            (
                (
                    moment(one.asked),
                    one.agent,
                    one.reason,
                    one.state,
                    f"{one.memories:,}",
                    moment(one.completed or one.removed),
                    one.order,
                ),
                "",
            )
            for one in head.forgotten
        ],
        empty="Nothing was forgotten about this person by name.",
    )
    yield "</section>"


def elsewhere(head: Head) -> Iterator[str]:
    """Copies and indexes."""
    yield section("elsewhere", "Copies and indexes")
    if head.copies:
        yield paragraph("Copies known to exist that were made since, and may hold some of it:")
        yield _items(head.copies)
    else:
        yield paragraph("No copy is known.")
    if head.indexes:
        yield paragraph("Services keep words and vectors of the memories, to find them by, in:")
        yield _items(head.indexes)
    yield "</section>"


def about(head: Head, tree: str) -> Iterator[str]:
    """What the report is."""
    yield section("about", "About this report")
    yield paragraph(
        f"It reaches to revision {head.last:,} of the board, which was created {head.created}. "
        f"The same, complete and for programs, is in {tree} (format {head.format})."
    )
    words = "".join(f"<dt>{safe(word)}</dt><dd>{safe(said)}</dd>" for word, said in _WORDS)
    yield f"<h3>Words</h3><dl>{words}</dl></section>"


def _cells(row: Access) -> tuple[str, ...]:
    pinned = row.revision is None or "@" in row.what
    what = row.what if pinned else f"{row.what}@{row.revision}"
    time = moment(row.at) if row.last is None else f"{moment(row.at)} to {moment(row.last)}"
    outcome = f"{row.outcome}: {row.note}" if row.note else row.outcome
    source = _SAYS.get(row.source, row.source)
    return (time, row.agent, row.act, what, f"{row.count:,}", outcome, source)


def _items(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{safe(one)}</li>' for one in texts)}</ul>"
