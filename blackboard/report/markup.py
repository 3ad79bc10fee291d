"""Pieces of a page: everything that comes in is text and goes out escaped."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape

LONGEST_FACT = 2_000
"""Characters of one field or cell."""
# Control characters (but for line breaks and tabs), and what turns or hides the direction of text.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1d20; --faint: #565b62; --line: #d5d8dc;
  --box: #f5f6f7; --link: #0b57a4; --good: #17652b; --bad: #a3001b; --badbox: #fdeeee;
  --notebox: #fff7de; --noteline: #b98900 }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --ink: #e6e7e9; --faint: #a7adb5;
  --line: #3a3f46; --box: #1e2126; --link: #86bdf5; --good: #7bd598; --bad: #ff9a93;
  --badbox: #38201f; --notebox: #2c2615; --noteline: #d6a520 } }
* { box-sizing: border-box }
body { background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
  margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem }
h1 { font-size: clamp(1.4rem, 4vw, 2rem); line-height: 1.2; margin: .5rem 0;
  overflow-wrap: anywhere }
h2 { border-bottom: 2px solid var(--line); font-size: 1.35rem; margin: 3rem 0 1rem;
  padding-bottom: .3rem }
h3 { font-size: 1.08rem; margin: 0 0 .5rem; overflow-wrap: anywhere }
h4 { color: var(--faint); font-size: .95rem; margin: 1rem 0 .4rem }
h5 { font-size: .85rem; margin: .6rem 0 .2rem }
a { color: var(--link) }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; margin: 1rem 0;
  padding: 0 }
p { max-width: 48rem; overflow-wrap: anywhere }
.note { background: var(--notebox); border-left: 4px solid var(--noteline); padding: .5rem .8rem }
.note.good { background: var(--box); border-color: var(--good) }
.note.bad { background: var(--badbox); border-color: var(--bad) }
article { border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0;
  padding: 1rem 1.1rem;
  content-visibility: auto; contain-intrinsic-size: auto 16rem }
.badge { border: 1px solid var(--line); border-radius: 1rem; color: var(--faint);
  display: inline-block; font-size: .78rem; font-weight: 400; margin-left: .4rem;
  padding: 0 .6rem; vertical-align: .1em }
.badge.there { border-color: var(--good); color: var(--good) }
.badge.forgotten, .badge.retired, .badge.expired { border-color: var(--bad); color: var(--bad) }
dl { display: grid; gap: .15rem 1rem; grid-template-columns: max-content minmax(0, 1fr);
  margin: .3rem 0 }
dt { color: var(--faint) } dd { margin: 0; overflow-wrap: anywhere }
pre { background: var(--box); border-radius: .4rem; font: .9rem/1.45 ui-monospace, monospace;
  margin: .5rem 0; overflow-wrap: anywhere; padding: .7rem .8rem; white-space: pre-wrap }
.wide, .narrow { margin: 1.5rem 0; overflow-x: auto }
table { border-collapse: collapse; min-width: 24rem; width: 100% }
caption { font-weight: 600; padding-bottom: .4rem; text-align: left }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem .35rem 0; text-align: left;
  vertical-align: top }
th { color: var(--faint); font-weight: 600; white-space: nowrap }
td { overflow-wrap: break-word; white-space: pre-line }
td.long { min-width: 15rem; max-width: 26rem; overflow-wrap: anywhere }
.narrow table { min-width: 18rem; width: auto }
.number { font-variant-numeric: tabular-nums; text-align: right }
td.time { font-variant-numeric: tabular-nums; min-width: 6.5rem }
tr.bad td { background: var(--badbox) }
@media (max-width: 36rem) { dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .4rem } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --faint: #444;
  --line: #bbb; --box: #f4f4f4; --link: #000; --good: #17652b; --bad: #a3001b; --badbox: #fdeeee;
  --notebox: #fff; --noteline: #888 }
  body { font-size: 10.5pt; max-width: none; padding: 0 } nav { display: none }
  h2, h3, h4 { break-after: avoid } article { content-visibility: visible; padding: .6rem .8rem }
  tr { break-inside: avoid } thead { display: table-header-group } .wide { overflow: visible } }
"""


def shown(value: str) -> str:
    """Text with what a reader cannot see, or should not be fooled by, as escapes."""
    return _UNSEEN.sub(lambda found: ascii(found.group())[1:-1], value)


def text(value: str) -> str:
    """Text of any length, escaped."""
    return escape(shown(value))


def safe(value: object) -> str:
    """One field, escaped; cut if it is very long."""
    said = str(value)
    if len(said) > LONGEST_FACT:
        said = f"{said[:LONGEST_FACT]}… ({len(said):,} characters)"
    return text(said)


def moment(value: datetime | None) -> str:
    """A time, to the second."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number of things."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def pairs(fields: Mapping[str, object]) -> str:
    """Names and values in one line."""
    return ", ".join(f"{name}: {value}" for name, value in fields.items())


def joined(values: Iterable[object]) -> str:
    """Values in one line."""
    return ", ".join(map(str, values))


def paragraph(said: str, kind: str = "") -> str:
    """A paragraph."""
    return f'<p class="{escape(kind)}">{safe(said)}</p>' if kind else f"<p>{safe(said)}</p>"


def link(target: str, said: str) -> str:
    """A link within the page."""
    return f'<a href="{escape(target)}">{safe(said)}</a>'


def badge(said: str, kind: str) -> str:
    """A word beside a heading."""
    return f'<span class="badge {escape(kind)}">{safe(said)}</span>'


def section(anchor: str, heading: str) -> str:
    """The beginning of a section; its end is the caller's."""
    return (
        f'<section id="{escape(anchor)}" aria-labelledby="{escape(anchor)}-h">'
        f'<h2 id="{escape(anchor)}-h">{safe(heading)}</h2>'
    )


def facts(pairs: Mapping[str, object]) -> str:
    """Names and values; those without a value are left out."""
    rows = "".join(
        f"<dt>{safe(name)}</dt><dd><bdi>{safe(value)}</bdi></dd>"
        for name, value in pairs.items()
        if value not in (None, "")
    )
    return f"<dl>{rows}</dl>" if rows else ""


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[tuple[Sequence[str], str]],
    *,
    empty: str = "None.",
) -> str:
    """A table with a caption; `rows` are cells, and a class of the row."""
    kinds = [_kind(head) for head in heads]
    body = "".join(
        f'<tr class="{escape(row_kind)}">'
        + "".join(f"<td{kind}>{safe(cell)}</td>" for cell, kind in zip(cells, kinds, strict=True))
        + "</tr>"
        for cells, row_kind in rows
    )
    if not body:
        return f"<h3>{safe(caption)}</h3>{paragraph(empty)}"
    head = "".join(
        f'<th scope="col"{kind}>{safe(one)}</th>' for one, kind in zip(heads, kinds, strict=True)
    )
    box = '<div class="narrow">'
    if len(heads) > 2:
        # Focusable, so that a wide one can be scrolled by keyboard.
        box = f'<div class="wide" tabindex="0" role="region" aria-label="{safe(caption)}">'
    return (
        f"{box}"
        f"<table><caption>{safe(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _kind(head: str) -> str:
    if head in ("Number", "Times", "Memories"):
        return ' class="number"'
    if head in ("What", "Memory", "Said", "Reason", "Made", "Receipt"):
        return ' class="long"'
    return ' class="time"' if head.endswith("(UTC)") else ""
