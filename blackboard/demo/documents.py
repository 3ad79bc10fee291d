"""The documents that the teams read: the Python reference, or the user's own files.

They are copied into a folder of plain files, one a document, where every reader finds them; the
user's own files are only read. A document's name is the file's name without its suffix, made of
characters that a key may have.
"""

import hashlib
import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from blackboard.errors import SettingsError

MAX_FILE_BYTES = 1024 * 1024
MAX_TOTAL_BYTES = 16 * 1024 * 1024
MAX_DOCUMENTS = 2_000
MAX_NAME_CHARS = 80
SUFFIXES = re.compile(
    r"\.(txt|text|md|markdown|rst|adoc|org|tex|html|py|pyi|js|ts|go|rs|java|kt|c|h|cc|cpp|hpp|cs|rb"
    r"|php|sh|sql|toml|ya?ml|cfg|ini)\Z"
)
"""What is read of a folder; a file that is named itself may have any suffix."""
PASSED_OVER = frozenset({"__pycache__", "node_modules", "build", "dist", "target", "venv"})


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        name: Letters, digits, `_` and `-`; unique among the documents, whatever the case.
        suffix: Of its file; `.py` is cut at definitions, all else at headings.
        text: What it says.
    """

    name: str
    suffix: str
    text: str

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"{self.name}{self.suffix}"


@dataclass(frozen=True, slots=True)
class Library:
    """All documents.

    Attributes:
        title: What they are, for the reader of the demo.
        documents: In order of name.
        passed_over: Files of a folder that were no use, each with the reason.
    """

    title: str
    documents: tuple[Document, ...]
    passed_over: tuple[str, ...] = ()

    def write(self, folder: Path, changed: Mapping[str, str] | None = None) -> None:
        """Write the documents into a folder.

        Args:
            folder: Made when it is missing.
            changed: Other text for some of them, by name.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for document in self.documents:
            text = (changed or {}).get(document.name, document.text)
            (folder / document.file).write_text(text, encoding="utf-8", newline="\n")


def python_reference() -> Library:
    """The Python Language Reference as prose, as it ships with every Python.

    Raises:
        SettingsError: This Python was packaged without it.
    """
    try:
        topics = cast("dict[str, str]", importlib.import_module("pydoc_data.topics").topics)
    except ImportError as error:
        raise SettingsError(
            "this Python was packaged without pydoc_data.topics; name files or folders to read"
        ) from error
    names = _Names()
    documents = [Document(names.take(name), ".txt", text) for name, text in sorted(topics.items())]
    return Library("the Python Language Reference", tuple(documents))


def load(paths: Sequence[Path]) -> Library:
    """Read the user's own files and folders.

    A file that is named itself must be of use; in folders what is binary, empty or too large is
    passed over, and so are hidden files and what tools have made.

    Args:
        paths: Files and folders; none means the Python reference.

    Raises:
        SettingsError: A path is missing, unreadable or no text, or there is nothing or too much to
            read; the text names it.
    """
    if not paths:
        return python_reference()
    found: list[Document] = []
    passed_over: list[str] = []
    names, total = _Names(), 0
    for file, label in _files(paths):
        named = file in paths
        text, fault = _read(file)
        if fault and named:
            raise SettingsError(f"cannot read {str(file)!r}: {fault}")
        if fault:
            passed_over.append(f"{label}: {fault}")
            continue
        total += len(text)
        if len(found) == MAX_DOCUMENTS or total > MAX_TOTAL_BYTES:
            raise SettingsError(
                f"too much to read: the limit is {MAX_DOCUMENTS} documents and "
                f"{MAX_TOTAL_BYTES // (1024 * 1024)} MiB; name a smaller folder"
            )
        found.append(Document(names.take(str(label.with_suffix(""))), _suffix(file), text))
    if not found:
        raise _nothing(paths, passed_over)
    found.sort(key=lambda document: document.name)
    return Library(
        ", ".join(path.name or str(path) for path in paths), tuple(found), tuple(passed_over)
    )


def _nothing(paths: Sequence[Path], passed_over: Sequence[str]) -> SettingsError:
    reasons = f" ({'; '.join(passed_over[:3])})" if passed_over else ""
    return SettingsError(
        f"nothing to read in {', '.join(repr(str(path)) for path in paths)}{reasons}; "
        "name text files, or folders with some"
    )


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Give each file once, with the path that it is named after."""
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            inside = [(file, file.relative_to(path)) for file in _walk(path)]
        elif path.exists():
            inside = [(path, Path(path.name))]
        else:
            raise SettingsError(f"{str(path)!r} does not exist; name a file or a folder")
        for file, label in inside:
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield file, label


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in PASSED_OVER
        )
        for name in sorted(files):
            if not name.startswith(".") and SUFFIXES.match(Path(name).suffix.lower()):
                yield Path(place, name)


def _read(file: Path) -> tuple[str, str]:  # noqa: PLR0911 - a return a fault
    """Return a file's text, or what is wrong with it."""
    try:
        if not file.is_file():
            return "", "it is no file"
        if file.stat().st_size > MAX_FILE_BYTES:
            return "", f"larger than {MAX_FILE_BYTES // 1024} KiB"
        raw = file.read_bytes()
    except OSError as error:
        return "", error.strerror or "unreadable"
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "", "it is no text in UTF-8"
    if "\0" in text:
        return "", "it is binary"
    if not text.strip():
        return "", "it is empty"
    return text.replace("\r\n", "\n").replace("\r", "\n"), ""


def _suffix(file: Path) -> str:
    suffix = file.suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,10}", suffix) else ".txt"


class _Names:
    """Gives each document a name that no other has."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wish: str) -> str:
        name = re.sub(r"[^A-Za-z0-9_]+", "-", wish).strip("-")[:MAX_NAME_CHARS]
        tries = 0
        fresh = name
        while not fresh or fresh.casefold() in self._taken:
            mark = hashlib.sha256(f"{wish} {tries}".encode()).hexdigest()[:8]
            fresh = f"{name or 'document'}-{mark}"
            tries += 1
        self._taken.add(fresh.casefold())
        return fresh
