import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from blackboard.demo import documents, edits
from blackboard.demo.documents import Document, Library
from blackboard.demo.programs import find
from blackboard.demo.teams import GENERAL_QUESTIONS, PYTHON_QUESTIONS
from blackboard.errors import SettingsError
from blackboard.subjects import check_key, check_token


def flock(name: str) -> Any:
    """Load a module of the programs, which lie beside the package and are none themselves."""
    path = find() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"flock_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sections = flock("sections")
ranking = flock("ranking")

GUIDE = """\
What comes before the first heading.

Chapter one
===========

The first line of it.
The second line of it.

Part
----

Prose of the part.

Empty
-----

# Markdown too

```
# no heading in a fence
```

Part
----

The second part of that name.
"""


def test_a_document_is_cut_at_its_headings() -> None:
    found = sections.split("guide", GUIDE)

    assert [section.heading for section in found] == [
        "What comes before the first heading.",
        "Chapter one",
        "Part",
        "Markdown too",
        "Part",
    ]
    assert "no heading in a fence" in found[3].text


def test_a_heading_with_nothing_under_it_is_no_section() -> None:
    assert all(section.heading != "Empty" for section in sections.split("guide", GUIDE))


def test_every_section_has_a_key_of_its_own_that_the_board_takes() -> None:
    for document in documents.python_reference().documents:
        keys = [section.key for section in sections.split(document.name, document.text)]

        assert len(keys) == len(set(keys))
        assert all(check_key(key).startswith(f"{document.name}-") for key in keys)


def test_the_same_text_in_two_documents_has_the_same_digest_and_another_key() -> None:
    first = sections.split("a", "Title\n=====\n\nText.\n")[0]
    second = sections.split("b", "\n\nTitle\n=====\n\nText.\n\n\n")[0]

    assert (first.text, first.digest) == (second.text, second.digest)
    assert first.key != second.key


def test_one_more_section_before_it_leaves_a_section_its_name() -> None:
    before = {section.key for section in sections.split("guide", GUIDE)}
    more = GUIDE.replace("Chapter one", "New\n===\n\nText.\n\nChapter one")
    after = {section.key for section in sections.split("guide", more)}

    assert len(after - before) == 1
    assert before <= after


def test_python_source_is_cut_at_its_definitions() -> None:
    text = (
        '"""Doc."""\n\nX = 1\n\n\n@cache\ndef one():\n    pass\n\n\n# why\nclass Two:\n    y = 2\n'
    )
    found = sections.split("module", text, source=True)

    assert [section.text.split("\n")[0] for section in found] == ['"""Doc."""', "@cache", "# why"]


def test_editing_any_line_of_prose_changes_its_section_and_no_other() -> None:
    for document in documents.python_reference().documents[::8]:
        lines = document.text.split("\n")
        before = sections.split(document.name, document.text)
        for number, line in enumerate(lines):
            if not edits.is_prose(lines, number):
                continue
            changed = "\n".join([*lines[:number], f"{line} {edits.MARK}", *lines[number + 1 :]])
            after = sections.split(document.name, changed)

            different = [
                (old, new) for old, new in zip(before, after, strict=True) if old.text != new.text
            ]
            assert len(different) == 1, line
            assert different[0][1].text.replace(f" {edits.MARK}", "") == different[0][0].text


@given(st.integers(0, 10_000), st.integers(0, 999))
def test_a_changed_line_moves_no_boundary_of_a_section_cut_for_its_length(
    seed: int, number: int
) -> None:
    lines = [hashlib.sha256(f"{seed} {line}".encode()).hexdigest() for line in range(1000)]
    changed = [*lines[:number], "another line", *lines[number + 1 :]]

    before = {section.text for section in sections.split("log", "\n".join(lines))}
    after = {section.text for section in sections.split("log", "\n".join(changed))}

    assert len(before) > 1
    assert len(after - before) <= 2


@given(st.text())
def test_no_text_loses_a_line_of_prose_or_breaks_the_splitter(text: str) -> None:
    found = sections.split("any", f"Title\n=====\nfirst\n{text}\nlast line of it")

    assert found[0].text.startswith("Title\n=====\nfirst")
    assert found[-1].text.endswith("last line of it")


def test_the_ranking_finds_the_documents_a_question_is_about() -> None:
    texts = {document.name: document.text for document in documents.python_reference().documents}
    best = ranking.best(PYTHON_QUESTIONS["exceptions"], texts, 10)

    assert len(best) == 10
    assert {"try", "raise", "exceptions"} <= set(best)


@pytest.mark.parametrize("question", ["", "the of and", "Grüße", "xylophone"])
def test_equal_scores_are_ranked_by_name(question: str) -> None:
    texts = {"b": "same words", "c": "same words", "a": "same words", "d": "!"}

    assert ranking.best(question, texts, 3) == ["a", "b", "c"]


def test_documents_without_a_word_can_be_ranked() -> None:
    assert ranking.best("what", {"b": "?", "a": "!!"}, 10) == ["a", "b"]


def test_the_reference_that_ships_with_python_is_the_default() -> None:
    library = documents.load([])

    assert len(library.documents) > 60
    assert sum(len(document.text) for document in library.documents) > 400_000


@pytest.mark.parametrize("questions", [PYTHON_QUESTIONS, GENERAL_QUESTIONS])
def test_six_teams_have_names_that_can_be_part_of_a_topic(questions: dict[str, str]) -> None:
    assert len(questions) == 6
    assert all(check_token("team", team) and question for team, question in questions.items())


def test_a_folder_is_read_with_everything_below_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Read Me.md").write_text("# Title\r\n\r\ntext", newline="")
    (tmp_path / "read-me.txt").write_text("text")
    (tmp_path / "sub" / "code.py").write_text("x = 1")
    (tmp_path / ".hidden.md").write_text("no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.md").write_text("no")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    library = documents.load([tmp_path])

    assert [document.name for document in library.documents] == [
        "read-me",
        "sub-Read-Me",
        "sub-code",
    ]
    assert library.documents[1].text == "# Title\n\ntext"
    assert sorted(library.passed_over) == [
        "binary.txt: it is binary",
        "empty.md: it is empty",
        "latin.txt: it is no text in UTF-8",
    ]


def test_names_stay_apart_whatever_the_files_are_called(tmp_path: Path) -> None:
    for name in ("a b.md", "a-b.md", "A-B.txt", "äöü.md", "ß.md", f"{'x' * 200}.md"):
        (tmp_path / name).write_text(f"text of {name}")
    names = [document.name for document in documents.load([tmp_path]).documents]

    assert len({name.casefold() for name in names}) == 6
    assert all(check_key(f"{name}-{'0' * 12}") for name in names)


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("text")

    assert len(documents.load([file, tmp_path, file]).documents) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"a\0b", "binary"),
        (b"\xff\xfe\xfa", "no text in UTF-8"),
        (b"a" * (documents.MAX_FILE_BYTES + 1), "larger than"),
    ],
)
def test_a_named_file_that_is_no_use_is_an_error_that_says_why(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "file.md"
    file.write_bytes(content)

    with pytest.raises(SettingsError, match=reason):
        documents.load([file])


def test_a_missing_path_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        documents.load([tmp_path / "nowhere"])


def test_a_folder_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text("")

    with pytest.raises(SettingsError, match=r"nothing to read .*it is empty"):
        documents.load([tmp_path])


def test_too_many_documents_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENTS", 2)
    for name in "abc":
        (tmp_path / f"{name}.md").write_text("text")

    with pytest.raises(SettingsError, match="too much to read"):
        documents.load([tmp_path])


def test_the_copy_holds_the_documents_and_the_changed_text(tmp_path: Path) -> None:
    library = Library("two", (Document("a", ".md", "old\n"), Document("b", ".txt", "other")))
    library.write(tmp_path / "copy", {"a": "new\n"})

    assert (tmp_path / "copy" / "a.md").read_bytes() == b"new\n"
    assert (tmp_path / "copy" / "b.txt").read_bytes() == b"other"


def test_the_edit_takes_the_document_that_most_teams_but_not_all_read() -> None:
    text = "Title\n=====\n\nOne line of plain prose.\n"
    found = [Document(name, ".txt", text) for name in ("all", "few", "many", "unread")]
    edit = edits.choose(found, {"all": 6, "few": 2, "many": 4}, 6)

    assert edit is not None
    assert (edit.document, edit.number) == ("many", 4)
    assert edit.text == text.replace("prose.", f"prose. {edits.MARK}")


def test_there_is_no_edit_when_nothing_is_prose() -> None:
    assert edits.choose([Document("a", ".txt", "Title\n=====\n\nx\n")], {"a": 1}, 6) is None
