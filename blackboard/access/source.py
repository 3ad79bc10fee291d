"""A policy file as it was written: its values, and the line on which each stands.

The standard library's TOML reader keeps no positions, and a policy that is refused has to say
where. So the statements of the file are found once more when something is wrong, and only then.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

from blackboard.errors import SettingsError

Path = tuple[str | int, ...]
_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_PART = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
    r"|#[^\n]*|\n|[\[\]{}]|[^\"'#\n\[\]{}]+",
    re.DOTALL,
)
"""Strings and comments as wholes, so that brackets and line ends inside them do not count."""


@dataclass(frozen=True, slots=True)
class _Statement:
    """A header, or a key with its value: what it names, its lines, and the first one's number."""

    path: tuple[str, ...]
    lines: Sequence[str]
    first: int


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a file, and the name it is called by in errors."""

    text: str
    name: str

    def root(self) -> "Node":
        """Parse the text.

        Raises:
            SettingsError: It is no TOML; the text names the line.
        """
        try:
            return Node(self, (), tomllib.loads(self.text))
        except tomllib.TOMLDecodeError as error:
            found = _LINE.search(str(error))
            line = int(found[1]) if found else self.text.count("\n") + 1
            what = str(error).partition(" (at ")[0]
            raise SettingsError(f"{self.name}:{line}: this is no TOML: {what}") from error

    def line(self, path: Path, needle: str | None = None) -> int:
        """The line of a value, or of a text within it; that of what holds it when it is nowhere."""
        keys = [part for part in path if isinstance(part, str)]
        statements = _within(list(_statements(self.text)), path)
        if not statements:
            return 1
        best = max(statements, key=lambda one: _common(one.path, keys))
        wanted = [[key] for key in keys[_common(best.path, keys) :]]
        if needle is not None:
            wanted.append([f'"{needle}"', f"'{needle}'", needle])
        line = 0
        for texts in wanted:
            found = (
                place
                for text in texts
                for place in range(line, len(best.lines))
                if text in best.lines[place]
            )
            line = next(found, line)
        return best.first + line

    def without(self, table: tuple[str, ...]) -> str:
        """The text without the statements of a table, and without what stands between them.

        Everything else stays as it was written, comments included.
        """
        lines = self.text.splitlines(keepends=True)
        end = 0
        own = False
        for statement in _statements(self.text):
            first = statement.first - 1
            before, own = own, statement.path[: len(table)] == table
            if own:
                begin = end if before else first
                end = first + len(statement.lines)
                lines[begin:end] = [""] * (end - begin)
        return "".join(lines)


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file, and its path from the root."""

    source: Source
    path: Path
    value: object

    def holds(self, kind: type) -> bool:
        """Whether the value is of a type."""
        return isinstance(self.value, kind)

    def failure(self, text: str, *, at: str | None = None) -> SettingsError:
        """The error that says on which line something is wrong.

        Args:
            text: What, and what to do.
            at: A text inside the value, to find the line by when it has several.
        """
        return SettingsError(f"{self.source.name}:{self.source.line(self.path, at)}: {text}")

    def table(self, *known: str) -> dict[str, "Node"]:
        """Its entries by key.

        Args:
            known: The keys there may be; none for names of the writer's own.

        Raises:
            SettingsError: It is no table, or has a key that is not known.
        """
        if not self.holds(dict):
            raise self.failure(f"{self} must be a table, not {_kind(self.value)}")
        entries = cast("dict[str, object]", self.value)
        for key in entries:
            if known and key not in known:
                close = get_close_matches(key, known, n=1)
                meant = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                at = Node(self.source, (*self.path, key), None)
                raise at.failure(f"{self} has no key {key!r}; {meant}")
        return {key: Node(self.source, (*self.path, key), value) for key, value in entries.items()}

    def entries(self) -> list["Node"]:
        """Its elements.

        Raises:
            SettingsError: It is no array, or an empty one.
        """
        if not self.holds(list):
            raise self.failure(f"{self} must be an array in [ ], not {_kind(self.value)}")
        values = cast("list[object]", self.value)
        if not values:
            raise self.failure(f"{self} is empty; leave it out or fill it")
        return [Node(self.source, (*self.path, at), value) for at, value in enumerate(values)]

    def texts(self) -> list[str]:
        """Its elements, which are strings; each one once.

        Raises:
            SettingsError: It is no array of strings, or an empty one.
        """
        for entry in self.entries():
            if not entry.holds(str):
                raise entry.failure(f"{self} must hold strings, not {_kind(entry.value)}")
        return list(dict.fromkeys(cast("list[str]", self.value)))

    def __str__(self) -> str:
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path]
        return "".join(parts).removeprefix(".") or "the file"


def _kind(value: object) -> str:
    kinds = {dict: "a table", list: "an array", str: "a string", bool: "a truth value"}
    return kinds.get(cast("type[Any]", type(value)), "a number or time")


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    same = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        same += 1
    return same


def _within(statements: list[_Statement], path: Path) -> list[_Statement]:
    """The statements of the element of an array of tables that a path leads through."""
    for place, number in enumerate(path):
        if not isinstance(number, int):
            continue
        name = tuple(part for part in path[:place] if isinstance(part, str))
        heads = [
            at
            for at, one in enumerate(statements)
            if one.path == name and one.lines[0].lstrip().startswith("[[")
        ]
        if number < len(heads):
            statements = statements[heads[number] : (*heads, None)[number + 1]]
    return statements


def _statements(text: str) -> Iterator[_Statement]:
    """Find the statements of a file that is known to be TOML."""
    header: tuple[str, ...] = ()
    line, depth, held = 1, 0, ""
    for found in _PART.finditer(f"{text}\n"):
        part = found.group()
        depth += (part in ("[", "{")) - (part in ("]", "}"))
        if part != "\n" or depth:
            held += part
            continue
        if held.strip() and not held.lstrip().startswith("#"):
            own = _keys(held)
            if held.lstrip().startswith("["):
                header = own
            path = own if held.lstrip().startswith("[") else (*header, *own)
            yield _Statement(path, held.split("\n"), line)
        line += held.count("\n") + 1
        held = ""


def _keys(statement: str) -> tuple[str, ...]:
    """The keys that a statement names, as far as there is no choice between several."""
    keys: list[str] = []
    value: object = tomllib.loads(statement)
    while isinstance(value, dict) and len(cast("dict[str, object]", value)) == 1:
        key, value = next(iter(cast("dict[str, object]", value).items()))
        keys.append(key)
    return tuple(keys)
