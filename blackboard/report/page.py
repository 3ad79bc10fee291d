"""The report as a page for people: one file, no scripts, nothing that is loaded from elsewhere.

What memories say was written by others, and is text here, whatever it contains: markup is escaped,
control characters and those that turn the direction of text are shown as what they are, and what is
very long is cut, with its size and where all of it stands in the JSON document.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import BinaryIO

import msgspec

from blackboard.codec import decode_record
from blackboard.ledger.history import Access
from blackboard.report.document import Noted, Revision
from blackboard.report.gather import Gathered, Line
from blackboard.report.kin import Part
from blackboard.report.markup import (
    STYLE,
    badge,
    count,
    facts,
    link,
    moment,
    paragraph,
    safe,
    section,
    size,
    table,
    text,
)

MEMORIES = 5_000
"""Of each part in a page: the newest. More than that no browser shows readily."""
ACCESSES = 2_000
"""In a page: the newest."""
LONGEST = 4_000
"""Characters of one content that a page shows."""
TREE = "report.json"

_STATES = {
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


def write_page(report: Gathered, out: BinaryIO, tree: str = TREE) -> None:
    """Write the page.

    Args:
        report: What was gathered.
        out: A file.
        tree: Where the JSON document is, as the reader of the page may find it.

    Raises:
        OSError: The disk is full.
        SettingsError: What was gathered cannot be read again.
    """
    for piece in _Page(report, tree).pieces():
        out.write(piece.encode())
        out.write(b"\n")


class _Page:
    """One page."""

    def __init__(self, report: Gathered, tree: str) -> None:
        self._report = report
        self._head = report.head
        self._tree = tree

    def pieces(self) -> Iterator[str]:
        """The page, in order."""
        user = safe(self._head.user)
        yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        yield (
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        )
        yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
        yield f"<title>Report on {user}</title><style>{STYLE}</style></head><body>"
        yield f"<header><h1>What is held about <bdi>{user}</bdi></h1>"
        yield paragraph(
            f"Everything that the board “{self._head.board}” held about this person on "
            f"{moment(self._head.at)} (UTC), and who read it. Made by {self._head.by}."
        )
        yield "</header>"
        yield self._contents()
        yield "<main>"
        yield from self._summary()
        yield from self._memories(Part.OWN)
        yield from self._memories(Part.DERIVED)
        yield from self._accesses()
        yield from self._noted()
        yield from self._forgotten()
        yield from self._elsewhere()
        yield from self._about()
        yield "</main></body></html>"

    def _contents(self) -> str:
        summary = self._head.summary
        names = [
            ("summary", "Summary"),
            ("memories", f"Memories ({summary.memories:,})"),
            ("derived", f"Derived ({summary.derived:,})"),
            ("accesses", f"Accesses ({summary.accesses:,})"),
            ("noted", f"Processing ({summary.noted:,})"),
            ("forgotten", f"Forgotten ({len(self._head.forgotten):,})"),
            ("elsewhere", f"Copies ({len(self._head.copies):,})"),
            ("about", "About this report"),
        ]
        items = "".join(f"<li>{link(f'#{anchor}', name)}</li>" for anchor, name in names)
        return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'

    def _summary(self) -> Iterator[str]:
        summary, head = self._head.summary, self._head
        yield section("summary", "Summary")
        states = ", ".join(f"{n:,} {_STATES[state]}" for state, n in summary.states.items())
        accessed = {one.agent for one in summary.readers if one.outcome == "ok"}
        yield facts(
            {
                "Memories": f"{summary.memories:,}" + (f": {states}" if states else ""),
                "Revisions of them": f"{summary.revisions:,}",
                "First stored": moment(summary.first),
                "Last stored": moment(summary.last),
                "Derived from them": count(summary.derived, "memory", "memories"),
                "Accessed by": count(len(accessed), "agent")
                + (", on record " + count(summary.accesses, "time") if accessed else ""),
                "Forgotten": count(len(head.forgotten), "order") if head.forgotten else "nothing",
                "Copies known": f"{len(head.copies):,}",
            }
        )
        for note in head.notes:
            yield paragraph(note, "note")
        for caption, first, counts in (
            ("Memories by topic", "Topic", summary.topics),
            ("Revisions by agent that wrote them", "Agent", summary.agents),
            ("Revisions by label", "Label", summary.labels),
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
                for one in summary.readers
            ],
            empty="No access is on record.",
        )
        yield "</section>"

    def _memories(self, part: Part) -> Iterator[str]:
        lines = self._report.lines[part]
        own = part is Part.OWN
        yield section(
            part.value,
            "Memories about this person" if own else "Derived: made from these memories",
        )
        if not lines:
            yield paragraph("None." if own else "Nothing was made from them.")
        elif not own:
            yield paragraph(
                "Programs made these from the memories above, or made them to be shown by those."
            )
        least = max(0, len(lines) - MEMORIES)
        if least:
            yield paragraph(
                f"The newest {MEMORIES:,} of {len(lines):,}. All of them are in {self._tree}.",
                "note",
            )
        revisions = self._report.spool.revisions(part.value, least)
        for number, kept in groupby(revisions, key=lambda one: one.memory):
            bodies = [decode_record(one.short or one.body, Revision) for one in kept]
            yield from self._memory(part, number, lines[number], bodies)
        yield "</section>"

    def _memory(
        self, part: Part, number: int, line: Line, revisions: list[Revision]
    ) -> Iterator[str]:
        anchor = f"{part.value[0]}{number + 1}"
        yield f'<article id="{anchor}" aria-labelledby="{anchor}-h">'
        yield (
            f'<h3 id="{anchor}-h">{number + 1:,}. {safe(line.ref.topic)} '
            f"{badge(_STATES[line.state], line.state)}"
            + (badge("derived", "derived") if part is Part.DERIVED else "")
            + "</h3>"
        )
        yield facts({"Reference": str(line.ref), "Why it is here": line.because})
        for place, revision in enumerate(revisions):
            pointer = f"/{part.value}/{number}/revisions/{place}/body"
            yield from self._revision(revision, pointer, place, len(revisions))
        yield "</article>"

    def _revision(self, one: Revision, pointer: str, place: int, of: int) -> Iterator[str]:
        version = f" (version {place + 1} of {of})" if of > 1 else ""
        yield f"<h4>Revision {one.revision:,}{version}, {moment(one.stored)}</h4>"
        body = one.body
        yield facts(
            {
                "Written by": one.agent,
                "Label": one.access,
                "Taken back": ""
                if one.gone is None
                else f"{one.gone}: {one.reason or 'no reason'}",
                "Ends": moment(one.expires),
                "Handler": one.cause,
                "Copied from": one.origin,
                "Kind": None if body is None else body.kind,
                "Session": None if body is None else body.session,
                "Happened": None if body is None else moment(body.happened),
                "Tags": None if body is None else _pairs(body.tags),
                "Made from": None if body is None else _list(body.sources),
                "Shows": None if body is None else body.content_of,
                "See also": None if body is None else _list(body.links),
                "Cost": None
                if body is None or body.cost is None
                else _pairs(msgspec.structs.asdict(body.cost)),
                "Not shown": one.withheld,
            }
        )
        if body is None or (one.withheld is not None and body.content is None):
            return
        yield self._content(body.content, one.bytes, f"{pointer}/content")
        if body.text is not None:
            yield "<h5>To be found by</h5>"
            yield self._content(body.text, len(body.text.encode()), f"{pointer}/text")

    def _content(self, content: object, of: int, pointer: str) -> str:
        if isinstance(content, str):
            shown = content
        else:
            shown = msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
        cut = len(shown) > LONGEST or of > 4 * max(len(shown), LONGEST)
        said = f'<pre dir="auto">{text(shown[:LONGEST])}</pre>'
        if not cut:
            return said
        return said + paragraph(
            f"Cut here: this is the beginning of {size(of)}. All of it is in {self._tree} at {pointer}.",
            "note",
        )

    def _accesses(self) -> Iterator[str]:
        head = self._head
        yield section("accesses", "Who read it")
        yield from self._proof()
        if head.lost:
            yield paragraph(
                f"Agents could not write down {head.lost:,} accesses, of whatever memory.",
                "note bad",
            )
        if head.summary.accesses > ACCESSES:
            yield paragraph(
                f"The newest {ACCESSES:,} of {head.summary.accesses:,}. All of them are in "
                f"{self._tree}.",
                "note",
            )
        rows = (decode_record(body, Access) for body in self._report.spool.accesses(ACCESSES))
        yield table(
            "Accesses, by time",
            ("Time (UTC)", "Agent", "What it did", "What", "Times", "Outcome", "Says who"),
            [(_cells(row), "" if row.outcome == "ok" else "bad") for row in rows],
            empty="No access is on record.",
        )
        yield "</section>"

    def _proof(self) -> Iterator[str]:
        proof = self._head.ledger
        if proof is None:
            yield paragraph(
                "This board has no ledger, so the broker recorded no reads. What follows is what the "
                "programs say of themselves; a program that says nothing is not in it.",
                "note bad",
            )
        elif proof.findings:
            yield paragraph("The record of accesses cannot be relied on:", "note bad")
            yield _items(proof.findings)
        else:
            yield paragraph(
                f"The record of accesses (ledger, {proof.records:,} entries) is whole and unaltered, "
                f"signed up to entry {proof.signed:,} with the key {proof.key}.",
                "note good",
            )
        if proof is not None and proof.gaps:
            yield paragraph("It says itself that something is missing:", "note")
            yield _items(proof.gaps)

    def _noted(self) -> Iterator[str]:
        yield section("noted", "How it was processed")
        rows = [decode_record(body, Noted) for body in self._report.spool.others("noted")]
        more = len(rows) - ACCESSES
        if more > 0:
            yield paragraph(
                f"The newest {ACCESSES:,} of {len(rows):,}. All of them are in {self._tree}.",
                "note",
            )
        yield table(
            "What programs noted about these memories",
            ("Time (UTC)", "Agent", "What", "Memory", "Handler", "Said", "Made"),
            [
                (
                    (
                        moment(one.at),
                        one.agent,
                        one.what,
                        str(one.ref),
                        one.by,
                        one.text[:LONGEST],
                        _list(one.outputs) or "",
                    ),
                    "bad" if one.what == "failed" else "",
                )
                for one in rows[-ACCESSES:]
            ],
            empty="Nothing is noted.",
        )
        spans = self._head.summary.spans
        if spans:
            yield paragraph(
                f"{count(spans, 'measurement')} of work (spans) name these memories, without what they "
                f"say; they are in {self._tree}."
            )
        yield "</section>"

    def _forgotten(self) -> Iterator[str]:
        yield section("forgotten", "What was forgotten")
        yield table(
            "Orders to forget that named this person or a memory above: the fact, never the content",
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
                for one in self._head.forgotten
            ],
            empty="Nothing was forgotten about this person by name.",
        )
        yield "</section>"

    def _elsewhere(self) -> Iterator[str]:
        yield section("elsewhere", "Copies and indexes")
        if self._head.copies:
            yield paragraph("Copies known to exist that were made since, and may hold some of it:")
            yield _items(self._head.copies)
        else:
            yield paragraph("No copy is known.")
        if self._head.indexes:
            yield paragraph("Services keep words and vectors of the memories, to find them by, in:")
            yield _items(self._head.indexes)
        yield "</section>"

    def _about(self) -> Iterator[str]:
        head = self._head
        yield section("about", "About this report")
        yield paragraph(
            f"It reaches to revision {head.last:,} of the board, which was created {head.created}. "
            f"The same, complete and for programs, is in {self._tree} (format {head.format})."
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


def _pairs(fields: dict[str, object] | dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in fields.items())


def _list(refs: Iterable[object]) -> str:
    return ", ".join(map(str, refs))
