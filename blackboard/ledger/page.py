"""An access history as a page of its own: no scripts, nothing that is loaded from elsewhere."""

from collections.abc import Iterable
from datetime import datetime
from html import escape

from blackboard.ledger.about import Revision
from blackboard.ledger.history import Access
from blackboard.ledger.verify import Verified

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem }
th, td { text-align: left; vertical-align: top }
td { overflow-wrap: anywhere } .time { white-space: nowrap }
.proved { color: #176f2c } .wrong { color: #b00020 }
.denied, .evaded, .missing { background: #fff0f0 }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #e4e4e4 } th, td { border-color: #444 }
  .proved { color: #6fd08c } .wrong { color: #ff8a80 }
  .denied, .evaded, .missing { background: #3a2020 }
}
"""


def render(
    board: str,
    subject: str,
    revisions: Iterable[Revision],
    rows: Iterable[Access],
    proof: Verified | None,
) -> str:
    """Write the page.

    Args:
        board: The board's name.
        subject: What the history is of.
        revisions: Those that are on the board.
        rows: Who accessed them, by time.
        proof: What the ledger proves; None without one.
    """
    history = list(rows)
    names = escape(", ".join(sorted({row.agent for row in history if row.agent}))) or "none"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>Access history of {escape(subject)}</title><style>{_STYLE}</style></head>",
            f"<body><h1>Access history of {escape(subject)}</h1>",
            f"<p>Board {escape(board)}; {len(history)} entries; agents: {names}.</p>",
            _proof(proof),
            "<h2>Revisions on the board</h2>",
            _table(
                ("stored", "memory", "revision", "state"),
                [
                    ("", (_time(one.stored), str(one.ref), str(one.sequence), one.gone or "there"))
                    for one in revisions
                ],
            ),
            "<h2>Accesses</h2>",
            _table(
                ("time (UTC)", "who says so", "agent", "act", "what", "times", "outcome"),
                [(row.outcome, _cells(row)) for row in history],
            ),
            "</body></html>",
        ]
    )


def _proof(proof: Verified | None) -> str:
    if proof is None:
        return (
            '<p class="wrong">This board has no ledger: what follows is what the agents say of '
            "themselves.</p>"
        )
    if not proof.findings:
        return (
            f'<p class="proved">The ledger of {proof.records} records is whole and unaltered; '
            f"signed up to record {proof.signed} with the key {escape(proof.key or '')}.</p>"
        )
    wrong = "".join(f"<li>{escape(str(finding))}</li>" for finding in proof.findings)
    return f'<div class="wrong"><p>The ledger cannot be relied on:</p><ul>{wrong}</ul></div>'


def _cells(row: Access) -> tuple[str, ...]:
    pinned = row.revision is None or "@" in row.what
    what = row.what if pinned else f"{row.what}@{row.revision}"
    time = _time(row.at) if row.last is None else f"{_time(row.at)} to {_time(row.last)}"
    outcome = f"{row.outcome}: {row.note}" if row.note else row.outcome
    return (time, row.source, row.agent, row.act, what, str(row.count), outcome)


def _table(heads: tuple[str, ...], rows: list[tuple[str, tuple[str, ...]]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        f'<tr class="{escape(kind)}"><td class="time">{escape(cells[0])}</td>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
        + "</tr>"
        for kind, cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
