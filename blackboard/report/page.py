"""The report as a page for people: one file, no scripts, nothing that is loaded from elsewhere.

What memories say was written by others, and is text here, whatever it contains: markup is escaped,
control characters and those that turn the direction of text are shown as what they are, and what is
very long is cut, with its size and where all of it stands in the JSON document.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO

import msgspec

from blackboard.codec import decode_record
from blackboard.messages import Payload
from blackboard.report.document import Revision
from blackboard.report.gather import Gathered, Line
from blackboard.report.kin import Part
from blackboard.report.markup import (
    STYLE,
    badge,
    facts,
    joined,
    link,
    moment,
    pairs,
    paragraph,
    safe,
    section,
    size,
    text,
)
from blackboard.report.sections import (
    STATES,
    about,
    accesses,
    elsewhere,
    forgotten,
    noted,
    summary,
)

MEMORIES = 5_000
"""Of each part in a page: the newest. More than that no browser shows readily."""
LONGEST = 4_000
"""Characters of one content that a page shows, and"""
LINES = 40
"""lines."""
TREE = "report.json"


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
        yield from summary(self._head)
        yield from self._memories(Part.OWN)
        yield from self._memories(Part.DERIVED)
        yield from accesses(self._report, self._tree)
        yield from noted(self._report, self._tree)
        yield from forgotten(self._head)
        yield from elsewhere(self._head)
        yield from about(self._head, self._tree)
        yield "</main></body></html>"

    def _contents(self) -> str:
        numbers = self._head.summary
        names = [
            ("summary", "Summary"),
            ("memories", f"Memories ({numbers.memories:,})"),
            ("derived", f"Derived ({numbers.derived:,})"),
            ("accesses", f"Accesses ({numbers.accesses:,})"),
            ("noted", f"Processing ({numbers.noted:,})"),
            ("forgotten", f"Forgotten ({len(self._head.forgotten):,})"),
            ("elsewhere", f"Copies ({len(self._head.copies):,})"),
            ("about", "About this report"),
        ]
        items = "".join(f"<li>{link(f'#{anchor}', name)}</li>" for anchor, name in names)
        return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'

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
            f"{badge(STATES[line.state], line.state)}"
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
        gone = None if one.gone is None else f"{one.gone}: {one.reason or 'no reason given'}"
        yield facts({"Taken back": gone, "Not shown": one.withheld})
        body = one.body
        if body is not None and (one.withheld is None or body.content is not None):
            yield self._content(body.content, one.bytes, f"{pointer}/content")
        if body is not None and body.text is not None:
            yield "<h5>To be found by</h5>"
            yield self._content(body.text, len(body.text.encode()), f"{pointer}/text")
        yield facts(
            {
                "Written by": one.agent,
                "Label": one.access,
                "Ends": moment(one.expires),
                "Handler": one.cause,
                "Copied from": one.origin,
                **({} if body is None else _said(body)),
            }
        )

    def _content(self, content: object, of: int, pointer: str) -> str:
        shown, direction = content, "auto"
        if not isinstance(shown, str):
            shown = msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
            direction = "ltr"
        beginning = "\n".join(shown[:LONGEST].split("\n")[:LINES])
        said = f'<pre dir="{direction}">{text(beginning)}</pre>'
        if beginning == shown:
            return said
        return said + paragraph(
            f"Cut here: this is the beginning of {size(of)}. All of it is in {self._tree} "
            f"at {pointer}.",
            "note",
        )


def _said(body: Payload) -> dict[str, object]:
    """What an author said about a memory, beside its content."""
    return {
        "Kind": body.kind,
        "Session": body.session,
        "Happened": moment(body.happened),
        "Tags": pairs(body.tags),
        "Made from": joined(body.sources),
        "Shows": body.content_of,
        "See also": joined(body.links),
        "Cost": None if body.cost is None else pairs(msgspec.structs.asdict(body.cost)),
    }
