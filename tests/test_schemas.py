"""`schemas/` says what the code does: schemas, examples and vectors, each held against it."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import jsonschema
import msgspec
import pytest
from hypothesis import example, given, strategies as st

from blackboard import Agent, Blackboard, Memory
from blackboard.codec import canonical, decode_content, decode_record, encode_record
from blackboard.envelope import to_memory
from blackboard.errors import InvalidError, LabelError
from blackboard.jetstream import Message, Start, follow
from blackboard.messages import decode, encode
from blackboard.schemas import REFERENCE, TYPES, schema_of, write
from blackboard.subjects import BB_NAMESPACE, Pattern, Ref, derived_id, subject_matches
from tests.foreign_agents import FOREIGN, LANGUAGES, command
from tests.waiting import wait_until

SCHEMAS = Path(__file__).parents[1] / "schemas"
EXAMPLES = sorted((SCHEMAS / "examples").glob("*/*.json"))
ID = "0199d3c6a1b27c3e8f4a5b6c7d8e9f01"


def fits(name: str, value: Any) -> bool:
    return jsonschema.Draft202012Validator(schema_of(name)).is_valid(value)  # pyright: ignore[reportUnknownMemberType]


def take(name: str, body: bytes) -> None:
    """What a reader does with a message of this kind."""
    if name == "memory":
        memory = decode(body)
        assert decode(encode(memory)) == memory
        assert fits(name, json.loads(encode(memory)))
    elif name == "headers":
        headers = cast("dict[str, str]", json.loads(body))
        to_memory(message(f"mem.main.shared.alice.docs.{ID}", headers, b""))
    else:
        record = decode_record(body, TYPES[name])
        assert decode_record(encode_record(record), TYPES[name]) == record
        assert fits(name, json.loads(encode_record(record)))


def message(subject: str, headers: dict[str, str], data: bytes) -> Message:
    return Message(subject, headers, data, 7, datetime.now(UTC))


def vectors(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / "vectors" / f"{name}.json").read_text())


def each(name: str) -> list[Any]:
    return [
        pytest.param(vector, id=f"{name}-{number}")
        for number, vector in enumerate(vectors(name)["vectors"])
    ]


def test_the_schemas_are_what_the_code_says() -> None:
    assert write(SCHEMAS, check=True) == []


def test_drift_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "schemas"
    shutil.copytree(SCHEMAS, copy)
    schema = copy / "lease.schema.json"
    schema.write_text(schema.read_text().replace("holder", "keeper"))
    (copy / "rumour.schema.json").write_text("{}")
    (copy / "examples" / "lease" / "valid-new.json").write_text("{}")

    problems = write(copy, check=True)

    assert len(problems) == 3
    assert any("lease.schema.json is out of date" in problem for problem in problems)
    assert write(copy, check=False) == ["rumour.schema.json is no message's schema"]
    (copy / "rumour.schema.json").unlink()
    assert write(copy, check=True) == []


@pytest.mark.parametrize("changed", ["{}", None])
def test_an_example_that_was_changed_or_removed_is_noticed(
    tmp_path: Path, changed: str | None
) -> None:
    copy = tmp_path / "schemas"
    shutil.copytree(SCHEMAS, copy)
    known = copy / "examples" / "lease" / "valid-held.json"
    known.unlink()
    if changed is not None:
        known.write_text(changed)

    for check in (True, False):
        (problem,) = write(copy, check=check)
        assert problem.startswith("examples/lease/valid-held.json was changed")


def test_a_vector_that_was_changed_or_moved_is_noticed_and_a_new_one_is_recorded(
    tmp_path: Path,
) -> None:
    copy = tmp_path / "schemas"
    shutil.copytree(SCHEMAS, copy)
    path = copy / "vectors" / "ids.json"
    file = json.loads(path.read_text())
    new = {"what": "new", "material": ["x"], "id": "0" * 32}
    path.write_text(json.dumps({**file, "vectors": [*file["vectors"], new]}))
    longer = write(copy, check=True)
    mended = write(copy, check=False), write(copy, check=True)
    path.write_text(json.dumps({**file, "vectors": [new, *file["vectors"]]}))
    moved = write(copy, check=True)

    assert longer == ["SHA256SUMS is out of date; run `python -m blackboard.schemas`"]
    assert mended == ([], [])
    assert (
        "vectors/ids.json vectors 000 was changed or removed; vectors are only ever added" in moved
    )


@pytest.mark.parametrize("name", TYPES)
def test_every_message_has_examples_of_both_kinds(name: str) -> None:
    kinds = {
        path.name.split("-")[0].removesuffix(".json")
        for path in EXAMPLES
        if path.parent.name == name
    }

    assert kinds == {"valid", "invalid"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_example_is_taken_or_refused_as_its_name_says(path: Path) -> None:
    name, body = path.parent.name, path.read_bytes()

    if path.name.startswith("valid"):
        assert fits(name, json.loads(body))
        take(name, body)
    else:
        assert not fits(name, json.loads(body))
        with pytest.raises(InvalidError):
            take(name, body)


tokens = st.text(st.sampled_from("aA0-_.*>@/\n é"), max_size=6)
names = st.sampled_from(["*", "alice", "a-b", "a--b", "Alice", "a" * 64, "a" * 65, ""])
ends = st.sampled_from([ID, ID.upper(), ID[:-1], f"{ID}0", "key", "k" * 128, "k" * 129, ""])
topics = st.sampled_from(["t", "t.u", "t" * 65, ".".join(["t" * 63] * 8), ".".join(["t" * 63] * 9)])
pins = st.sampled_from(["", "@", "@1", "@0", "@01", "@9223372036854775807", "@1@1", "@" + "1" * 20])


@given(
    st.one_of(
        st.builds(lambda *parts: "/".join(parts[:3]) + parts[3], names, topics, ends, pins),
        st.builds(lambda *parts: "/".join(parts[:3]) + parts[3], tokens, tokens, tokens, pins),
    )
)
@example(f"*/docs/{ID}")
@example(f"*/docs/{ID}@1")
def test_the_schema_of_a_reference_agrees_with_the_code(text: str) -> None:
    try:
        Ref.parse(text)
    except InvalidError:
        taken = False
    else:
        taken = True

    # `$` is the very end in JSON Schema; Python's stops before a last newline as well.
    assert (re.search(REFERENCE.removesuffix("$") + r"\Z", text) is not None) == taken


@pytest.mark.parametrize("vector", each("canonical"))
def test_canonical_json_is_that_of_its_vector(vector: dict[str, str]) -> None:
    form = canonical(decode_content(vector["json"].encode()))

    assert form.decode() == vector["canonical"]
    assert hashlib.sha256(form).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("text", vectors("canonical")["refused"], ids=repr)
def test_what_has_no_canonical_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        canonical(decode_content(text.encode()))


@pytest.mark.parametrize("vector", each("references"))
def test_a_reference_is_read_as_its_vector_says(vector: dict[str, Any]) -> None:
    if vector.get("error"):
        with pytest.raises(InvalidError):
            Ref.parse(vector["text"])
    else:
        ref = Ref.parse(vector["text"])
        parts = {"agent": ref.agent, "topic": ref.topic, "id": ref.id, "revision": ref.revision}
        assert {"text": vector["text"], **parts, "normal": str(ref)} == vector


@pytest.mark.parametrize("vector", each("patterns"))
def test_a_pattern_selects_as_its_vector_says(vector: dict[str, Any]) -> None:
    pattern = Pattern.parse(vector["pattern"])
    subject = f"mem.main.shared.alice.{vector['topic']}.{ID}"

    assert pattern.matches(vector["topic"]) == vector["matches"]
    assert pattern.subject("main") == vector["filter"]
    assert subject_matches(vector["filter"], subject) == vector["matches"]


@pytest.mark.parametrize("text", vectors("patterns")["refused"], ids=repr)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        Pattern.parse(text)


@pytest.mark.parametrize("vector", each("ids"))
def test_an_id_is_derived_as_its_vector_says(vector: dict[str, Any]) -> None:
    assert derived_id(canonical(vector["material"])) == vector["id"]


def test_the_namespace_is_told_wherever_it_is_needed() -> None:
    assert vectors("ids")["namespace"] == str(BB_NAMESPACE)
    assert str(BB_NAMESPACE) in (SCHEMAS / "README.md").read_text()


async def test_once_uses_the_keys_of_the_vectors(board: Blackboard) -> None:
    for vector in vectors("once")["vectors"]:
        material = vector["material"].encode()
        assert hashlib.sha256(material).hexdigest() == vector["h"]
        made = await board.once(
            vector["name"],
            _inputs(vector["inputs"]),
            lambda: "result",
            version=vector["version"],
            access=vector["access"],
        )
        assert str(made.ref) == f"*/once.{vector['name']}/{vector['h']}", vector["what"]


async def test_the_key_of_a_memory_under_a_label_needs_no_access(board: Blackboard) -> None:
    for vector in vectors("once")["vectors"]:
        if "under a label" in vector["what"]:
            made = await board.once(
                vector["name"], _inputs(vector["inputs"]), lambda: 1, version=vector["version"]
            )
            assert (made.id, made.access) == (vector["h"], "pii")
    both = [Memory(content=1, access="pii"), Memory(content=1, access="finance")]
    with pytest.raises(LabelError):
        await board.once("summary", both, lambda: 1)


_SHARED: dict[str, Any] = {"access": "shared"}


def _inputs(value: Any) -> Any:
    if isinstance(value, list):
        return [_inputs(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if "$memory" in fields:
            return Memory(**(_SHARED | fields["$memory"]))
        return {name: _inputs(item) for name, item in fields.items()}
    return value


async def test_a_reader_tells_honest_messages_from_others(board: Blackboard) -> None:
    for vector in vectors("messages")["vectors"]:
        found = message(vector["subject"], vector["headers"], vector["body"].encode())
        if vector["via"] == "consumer":
            honest = board.log.delivered(found) is not None
        else:
            try:
                board.log.check(found, vector["asked"])
            except InvalidError:
                honest = False
            else:
                honest = True
        assert honest == vector["honest"], vector["what"]


async def test_everything_the_library_writes_fits_the_schemas(board: Blackboard) -> None:
    await _write_everything(board)
    kinds: set[str] = set()

    for stream in ("MEM_main", "AUDIT_main", "SPANS_main", "DEAD_main", "KV_agents_main"):
        async with follow(board.log.connection, stream, ">", Start.all()) as follower:
            while follower.pending:
                found = await follower.step()
                if found is not None:
                    kinds |= _check(found)

    asked = {"recall-request", "recall-answer", "query-request", "query-answer"}  # never stored
    secured = {"rights", "api-request", "served-messages"}  # where the broker has credentials
    files = {"report"}
    elsewhere = {"retry", "group-record", "retention-policy"}
    assert kinds == set(TYPES) - elsewhere - asked - secured - files


async def _write_everything(board: Blackboard) -> None:
    agent = Agent("worker")

    @agent.on("docs.>", to="out")
    async def work(memory: Memory, board: Blackboard) -> str:
        await board.put("more", memory.content, key="newest")
        return "done"

    @agent.on("bad.>", attempts=1)
    async def fail(memory: Memory, board: Blackboard) -> None:
        raise ValueError("no")

    async with agent.running(board) as runner:
        ref = await board.put("docs.a", {"x": 1}, user="u", tags={"a": "b"}, ttl=timedelta(days=1))
        await board.put("docs.b", "a", happened=datetime.now(UTC), sources=[ref], priority=0.9)
        await board.put("bad.a", "x")
        await wait_until(lambda: runner.stats.done == 2, "two inputs were handled")
        await wait_until(lambda: runner.stats.failed == 1, "one became a dead letter")
    plan = await board.put("state.plan", "p", key="main")
    await board.retire(plan, reason="not 100 % right, äh")
    await board.reclassify(ref, "pii")
    await board.once("work", [1], lambda: 1, topic="uses")
    await board.get(await board.put("large", "x" * 300_000))
    for stream in ("AUDIT_main", "SPANS_main"):
        await wait_until(lambda stream=stream: _filled(board, stream), f"{stream} is written")


async def _filled(board: Blackboard, stream: str) -> bool:
    info = await board.log.connection.stream(stream)
    return info is not None and info.state.messages > 0


def _check(found: Message) -> set[str]:
    first, *_, last = found.subject.split(".")
    records = {"o": "lease", "h": "handler-record", "g": "group-record", "r": "run-record"}
    name = {
        "mem": "memory",
        "audit": "audit-batch",
        "spans": "span-batch",
        "dead": "dead-letter",
        "$KV": "card",
        "claim": records.get(last[0], "?"),
    }[first]
    if found.data:
        assert fits(name, json.loads(found.data)), (found.subject, found.data)
        decode_record(found.data, TYPES[name])
    if first != "mem":
        return {name}
    assert fits("headers", dict(found.headers)), (found.subject, found.headers)
    return {name, "headers"}


def test_the_schemas_tell_what_every_field_is_for() -> None:
    properties = schema_of("memory")["$defs"]["Payload"]["properties"]

    assert set(properties) == {
        field.encode_name for field in msgspec.structs.fields(TYPES["memory"])
    }
    untold = {name for name, said in properties.items() if "description" not in said}
    assert untold <= {"blob", "cost", "tags"}  # their types say it


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_foreign_agent_agrees_with_every_vector(language: str, tmp_path: Path) -> None:
    check = [*command(language, "vectors", tmp_path), str(SCHEMAS)]

    done = subprocess.run(check, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_foreign_agent_notices_a_vector_it_disagrees_with(language: str, tmp_path: Path) -> None:
    vectors = tmp_path / "schemas" / "vectors"
    vectors.mkdir(parents=True)
    for path in (SCHEMAS / "vectors").glob("*.json"):
        text = path.read_text()
        (vectors / path.name).write_text(text.replace('"matches": true', '"matches": false', 1))
    check = [*command(language, "vectors", tmp_path), str(vectors.parent)]

    done = subprocess.run(check, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stdout.startswith("patterns: ")


def test_the_foreign_python_agent_imports_nothing_of_the_library() -> None:
    allowed = {"nats", "rfc8785", *(path.stem for path in FOREIGN.glob("*.py"))}
    allowed |= sys.stdlib_module_names
    for path in FOREIGN.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    roots = {name.name.split(".")[0] for name in names}
                case ast.ImportFrom(module=str(module)):
                    roots = {module.split(".")[0]}
                case _:
                    continue
            assert roots <= allowed, f"{path.name} imports {roots - allowed}"


def test_the_foreign_javascript_agent_imports_only_a_nats_client() -> None:
    package = json.loads((FOREIGN / "package.json").read_text())
    files = list(FOREIGN.glob("*.mjs"))
    imported = {
        name
        for path in files
        for name in re.findall(r"""(?:from|import)\s*\(?\s*["']([^"']+)["']""", path.read_text())
    }
    own = {f"./{path.name}" for path in files}

    assert set(package["dependencies"]) == {"@nats-io/jetstream", "@nats-io/transport-node"}
    assert set(package["dependencies"]) <= imported
    rest = imported - own - set(package["dependencies"])
    assert all(name.startswith("node:") for name in rest), rest
