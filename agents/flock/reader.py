"""The reader: answers a question by reading the best documents for it, section by section.

What it puts is one transaction: sections that are new or changed, tombstones of those that went,
and the outline. Asked again, over other documents, it touches only what differs from the last
outline. Run it with `FLOCK_TEAM=exceptions blackboard run agents/flock/reader.py`.
"""

from pathlib import Path
from typing import Any, cast

import anyio
from outline import KIND, Entry, Outline, key, parse, tags
from ranking import best
from sections import Section, split
from team import QUESTION, RECEIPT, SECTION, SUMMARY, TEAM, agent as declare

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import GoneError, NotFoundError, TerminalError

MAX_SECTIONS = 900
"""What a handler puts commits as one batch, which holds 1,000 messages."""

agent = declare("reader")


@agent.on(QUESTION, to=RECEIPT, start="start")
async def read(question: Memory, board: Blackboard) -> dict[str, int]:
    """Put the sections of the best documents and say how many there were."""
    asked = cast("dict[str, Any]", question.content)
    text, folder = str(asked["question"]), Path(str(asked["folder"]))
    sections = await anyio.to_thread.run_sync(_sections, text, folder, int(asked["documents"]))
    kept = sections[:MAX_SECTIONS]
    outline = Outline(text, tuple(_entry(section) for section in kept), len(sections) - len(kept))
    before = await _outline(board)
    known = {entry.key: entry.digest for entry in before.sections} if before else {}
    fresh = [section for section in kept if known.get(section.key) != section.digest]
    for section in fresh:
        entry = _entry(section)
        await board.put(SECTION, section.text, key=section.key, kind="section", tags=tags(entry))
    gone = set(known) - {section.key for section in kept}
    for name in sorted(gone):
        await board.retire(Ref.parse(f"*/{SECTION}/{name}"), reason="no longer among the documents")
    if outline != before:
        await board.put(SUMMARY, outline, key=key(TEAM), kind=KIND)
    return {
        "put": len(fresh),
        "kept": len(kept) - len(fresh),
        "retired": len(gone),
        "left_out": outline.left_out,
    }


def _sections(question: str, folder: Path, documents: int) -> list[Section]:
    files = {file.stem: file for file in folder.iterdir() if file.is_file()}
    if not files:
        raise TerminalError(f"no documents in {str(folder)!r}")
    texts = {name: file.read_text("utf-8") for name, file in files.items()}
    return [
        section
        for name in best(question, texts, documents)
        for section in split(name, texts[name], source=files[name].suffix in {".py", ".pyi"})
    ]


def _entry(section: Section) -> Entry:
    return Entry(section.key, section.document, section.heading, section.digest)


async def _outline(board: Blackboard) -> Outline | None:
    try:
        found = await board.get(Ref.parse(f"*/{SUMMARY}/{key(TEAM)}"))
    except (NotFoundError, GoneError):
        return None
    return parse(found.content)


if __name__ == "__main__":
    agent.run()
