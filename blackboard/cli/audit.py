"""Commands for the audit: who read what, whether that can be relied on, and a report of it.

On a board with credentials two accounts are merged: what the broker and the steward say (the
ledger), and what the agents say of themselves (their journals). Without, there are journals only.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from blackboard.cli.output import fields, say, say_json, table, warn
from blackboard.cli.place import HERE, Place, opened
from blackboard.errors import InvalidError
from blackboard.inquiry import Findings, Question, inquire
from blackboard.ledger.about import About
from blackboard.ledger.history import Access
from blackboard.ledger.page import render
from blackboard.ledger.receipt import Receipt, read_receipt, receipt_path, write_receipt
from blackboard.ledger.verify import Verified, verify as verified
from blackboard.records import AuditEvent
from blackboard.settings import Settings
from blackboard.subjects import Pattern, Ref, check_name
from blackboard.times import parse_time

audit = App(
    name="audit",
    help_epilogue="Example:\n\n    blackboard audit --act get --what 'reports.>' --since 1h\n"
    "    blackboard audit --memory '*/state.config/mode' --denied\n"
    "    blackboard audit verify\n"
    "    blackboard audit report --user customer-42 --html > customer-42.html",
)


@audit.default
async def show(
    *,
    agent: str | None = None,
    act: str | None = None,
    what: str | None = None,
    memory: str | None = None,
    topic: str | None = None,
    user: str | None = None,
    outcome: str | None = None,
    denied: bool = False,
    trace: str | None = None,
    since: str = "start",
    until: str | None = None,
    limit: int = 100,
    place: Place = HERE,
) -> None:
    """Show who read what, and who took what back; prove it; report it.

    Args:
        agent: Only of this agent.
        act: Only this: get, delivery, watch, view, view_reads, replay, wait, retire, undo, ….
        what: Only about this reference, or the topics under this pattern.
        memory: Only about this reference.
        topic: Only about the topics under this pattern.
        user: Only about the memories of this data subject.
        outcome: Only what ended so: ok, or the name of an error like NotFoundError.
        denied: Only what was refused.
        trace: Only in this trace.
        since: start, a time, or how long ago, like 1h.
        until: A time, or how long ago.
        limit: The newest so many.
        place: The board.
    """
    if limit < 1:
        raise InvalidError(f"--limit {limit} must be at least 1")
    question = Question(
        about=_about(what, memory, topic, user),
        agent=None if agent is None else check_name("--agent", agent),
        act=act,
        outcome=outcome,
        denied=denied,
        trace=trace,
        since=None if since == "start" else parse_time(since, "--since"),
        until=None if until is None else parse_time(until, "--until"),
        limit=limit,
    )
    async with opened(place) as board:
        found = await inquire(board, question)
    _print(found, place)
    if found.lost:
        warn(f"{found.lost} more events were lost in this time")


def _about(
    what: str | None, memory: str | None = None, topic: str | None = None, user: str | None = None
) -> About:
    ref = Ref.parse(memory) if memory is not None else None
    pattern = Pattern.parse(topic) if topic is not None else None
    if what is not None and "/" in what:
        ref = Ref.parse(what)
    elif what is not None:
        pattern = Pattern.parse(what)
    if ref is not None and user is not None:
        raise InvalidError("--user names memories already; leave the reference out")
    return About(None if ref is None else frozenset((ref,)), pattern, user)


def _print(found: Findings, place: Place) -> None:
    if found.ledger:
        _print_accesses(found.rows, place)
    else:
        _print_events(found.events, place)


def _print_accesses(rows: list[Access], place: Place) -> None:
    if place.as_json:
        for row in rows:
            say_json(row, line=True)
        return
    table(
        ["time", "says", "agent", "act", "what", "outcome"],
        [
            [
                row.at,
                _SAYS[row.source],
                row.agent,
                row.act,
                _pinned(row.what, row.revision),
                _outcome(row),
            ]
            for row in rows
        ],
    )


_SAYS = {"broker": "broker", "steward": "steward", "itself": "itself"}


def _outcome(row: Access) -> str:
    count = "" if row.count == 1 else f" ({row.count} times)"
    note = f": {row.note}" if row.note else ""
    return f"{row.outcome}{count}{note}"


def _print_events(events: list[AuditEvent], place: Place) -> None:
    if place.as_json:
        for event in events:
            say_json(event, line=True)
        return
    table(
        ["time", "agent", "act", "what", "outcome"],
        [
            [
                event.at,
                event.agent,
                event.act if event.handler is None else f"{event.act} to {event.handler}",
                _pinned(event.what, event.revision),
                event.outcome if event.count == 1 else f"{event.outcome} ({event.count} times)",
            ]
            for event in events
        ],
    )


def _pinned(what: str, revision: int | None) -> str:
    return what if revision is None or "@" in what else f"{what}@{revision}"


@audit.command(
    name="verify",
    help_epilogue="Example:\n\n    blackboard audit verify --receipt audit-receipt.json",
)
async def check(
    *,
    receipt: Annotated[
        Path | None,
        Parameter(help="Hold the ledger against this receipt of an earlier verify, then renew it."),
    ] = None,
    key: str | None = None,
    place: Place = HERE,
) -> int:
    """Prove that nothing was removed from the audit or altered in it; exit code 1 if something was.

    Args:
        receipt: A file.
        key: The board's public key (A…) as its owner knows it.
        place: The board.
    """
    settings = place.settings()
    async with opened(place) as board:
        own = _receipts(settings, board.name, receipt)
        result = await verified(board.session.connection, board.name, key=key, receipts=own)
    if receipt is not None and not result.findings:
        _renew(receipt, result)
    if place.as_json:
        say_json(result)
    else:
        _print_verified(result)
    return 1 if result.findings else 0


def _receipts(settings: Settings, board: str, path: Path | None) -> list[Receipt]:
    """That of the steward, where it is on this machine, and that of the user."""
    key = settings.board_key or settings.data_dir / "board.key"
    found = [read_receipt(receipt_path(key, board), board)]
    if path is not None:
        found.append(read_receipt(path, board))
    return [one for one in found if one is not None]


def _renew(path: Path, result: Verified) -> None:
    """Keep what the newest checkpoint in the chain says: the key of it signed that."""
    if result.checkpoint is not None:
        write_receipt(path, result.checkpoint)


def _print_verified(result: Verified) -> None:
    fields(
        {
            "board": result.board,
            "records": f"{result.records} ({result.first} to {result.last})",
            "signed": f"up to record {result.signed}, by {result.checkpoints} checkpoints",
            "key": result.key,
            "reads": f"{result.reads} in the broker's record and the ledger alike",
            "journals": f"{result.journals} batches unchanged",
            "dropped": f"{result.dropped} by age or size" if result.dropped else None,
            "waiting": f"{result.waiting} reads not in a record yet" if result.waiting else None,
        }
    )
    for gap in result.gaps:
        say(f"known     {gap}")
    for finding in result.findings:
        say(f"WRONG     {finding}")
    if not result.findings:
        say("verified  nothing was removed or altered")


@audit.command(
    name="report",
    help_epilogue="Example:\n\n    blackboard audit report --user customer-42 --html > report.html",
)
async def report(
    *,
    memory: str | None = None,
    user: str | None = None,
    since: str = "start",
    until: str | None = None,
    html: bool = False,
    place: Place = HERE,
) -> None:
    """Give the access history of one memory, or of all memories of one data subject.

    Args:
        memory: A reference.
        user: A data subject.
        since: start, a time, or how long ago, like 30d.
        until: A time, or how long ago.
        html: Print a page for a browser.
        place: The board.
    """
    if (memory is None) == (user is None):
        raise InvalidError("name one of --memory and --user")
    question = Question(
        about=_about(None, memory, None, user),
        since=None if since == "start" else parse_time(since, "--since"),
        until=None if until is None else parse_time(until, "--until"),
        limit=None,
    )
    async with opened(place) as board:
        found = await inquire(board, question)
        connection = board.session.connection
        proof = await verified(connection, board.name) if found.ledger else None
    subject = memory or f"user {user}"
    if html:
        say(render(board.name, subject, found.revisions, found.rows, proof))
    elif place.as_json:
        say_json(_tree(board.name, subject, found, proof))
    else:
        _print_report(subject, found, proof)


def _tree(board: str, subject: str, found: Findings, proof: Verified | None) -> dict[str, object]:
    return {
        "board": board,
        "about": subject,
        "revisions": [
            {
                "ref": str(one.ref),
                "revision": one.sequence,
                "stored": one.stored,
                "gone": one.gone,
            }
            for one in found.revisions
        ],
        "accesses": found.rows,
        "ledger": proof,
    }


def _print_report(subject: str, found: Findings, proof: Verified | None) -> None:
    say(f"access history of {subject}")
    say(f"{len(found.revisions)} revisions are on the board")
    if proof is None:
        say("there is no ledger: this is what the agents say of themselves")
    else:
        state = "proved" if not proof.findings else f"NOT PROVED: {proof.findings[0]}"
        say(f"ledger of {proof.records} records, signed up to {proof.signed}: {state}")
    say()
    _print_accesses(found.rows, Place())
