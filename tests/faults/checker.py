"""Proves from the histories of a run, and from the board at its end, that all was right.

In the manner of Jepsen, but with the order given: every revision has a number of its own, so what
has to be shown is not that *some* order explains what was seen, but that this one does. All here
are pure functions; each returns what is wrong, in sentences, and nothing when all is well.

What counts as a write: what was acknowledged must be on the board; what failed for certain must
not; what nobody knows of may be there, once. An unknown write may take effect at any time after it
was called, so it bounds nothing from above.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tests.faults.history import NEVER, History, Op, Stored

SHOWN = 20
"""Findings of one check that are told; one broken run may have thousands."""
WRITES = ("put", "put_many", "revise", "update")


def check(history: History, stored: Sequence[Stored], *, replicated: bool) -> list[str]:
    """Everything that is wrong with a run.

    Args:
        history: What the workers did and saw.
        stored: All revisions on the board, oldest first.
        replicated: On several servers a read is only as new as what its own connection has seen.
    """
    writes = [op for op in history.ops if op.do in WRITES]
    checks = (
        check_values(writes, stored),
        check_batches(writes, stored),
        check_order(writes, stored),
        check_chains(stored),
        check_conflicts(writes, stored),
        check_reads(history.ops, stored, replicated=replicated),
        check_once(history.ops, stored),
        check_outputs(stored),
        check_groups(stored),
        check_readings(history, stored),
        check_views(history, stored),
    )
    return [finding for findings in checks for finding in _shortened(findings)]


def check_values(writes: Sequence[Op], stored: Sequence[Stored]) -> list[str]:
    """Nothing acknowledged is lost, nothing refused is stored, nothing is stored twice."""
    wrong: list[str] = []
    found = _by_value(stored)
    for op in writes:
        revisions = op.revisions or [None] * len(op.values)
        for value, revision in zip(op.values, revisions, strict=True):
            there = [one.revision for one in found.get(value, [])]
            if len(there) > 1:
                wrong.append(f"{value} is stored {len(there)} times: {there}")
            elif op.outcome == "ok" and not there:
                wrong.append(f"acknowledged and lost: {value} of {op}")
            elif op.outcome == "ok" and revision not in (None, *there):
                wrong.append(f"{value} was acknowledged as {revision} and is {there[0]}: {op}")
            elif op.outcome not in ("ok", "unknown") and there:
                wrong.append(f"refused and stored: {value} of {op}")
    tried = {value for op in writes for value in op.values}
    wrong += [
        f"nobody wrote {one.value}, revision {one.revision}"
        for one in _load(stored)
        if one.value not in tried
    ]
    return wrong


def check_batches(writes: Sequence[Op], stored: Sequence[Stored]) -> list[str]:
    """A batch is stored whole, in order and without anything between, or not at all."""
    wrong: list[str] = []
    found = _by_value(stored)
    for op in writes:
        if op.do != "put_many":
            continue
        there = [found[value][0].revision for value in op.values if value in found]
        if there and there != list(range(there[0], there[0] + len(op.values))):
            wrong.append(f"a batch of {len(op.values)} is stored as {there}: {op}")
    return wrong


def check_order(writes: Sequence[Op], stored: Sequence[Stored]) -> list[str]:
    """What began after an acknowledgement has a higher revision than what was acknowledged."""
    found = _by_value(stored)
    placed = [
        (op, [found[value][0].revision for value in op.values if value in found])
        for op in writes
        if op.outcome in ("ok", "unknown")
    ]
    placed = [(op, revisions) for op, revisions in placed if revisions]
    ended = sorted(
        ((op.end, max(revisions)) for op, revisions in placed if op.outcome == "ok"),
    )
    wrong: list[str] = []
    floor, next_end = 0, 0
    for op, revisions in sorted(placed, key=lambda one: one[0].begin):
        while next_end < len(ended) and ended[next_end][0] < op.begin:
            floor = max(floor, ended[next_end][1])
            next_end += 1
        if min(revisions) <= floor:
            wrong.append(f"revision {min(revisions)} came after {floor} was acknowledged: {op}")
    return wrong


def check_chains(stored: Sequence[Stored]) -> list[str]:
    """Compare-and-set held: each revision names the one before it, and counters count."""
    wrong: list[str] = []
    for ref, chain in _by_ref(_load(stored)).items():
        before: Stored | None = None
        for one in chain:
            base = one.content.get("base")
            previous = 0 if before is None else before.revision
            if base is not None and base != previous:
                wrong.append(f"{ref}: revision {one.revision} replaced {previous}, not {base}")
            count = one.content.get("n")
            if count is not None and count != 1 + (0 if before is None else before.content["n"]):
                wrong.append(f"{ref}: revision {one.revision} counts {count}, an increment is lost")
            before = one
    return wrong


def check_conflicts(writes: Sequence[Op], stored: Sequence[Stored]) -> list[str]:
    """Whoever was told of a conflict was really overtaken, by somebody else, before that."""
    begun = {value: op.begin for op in writes for value in op.values}
    chains = _by_ref(_load(stored))
    wrong: list[str] = []
    for op in writes:
        if op.outcome != "conflict" or op.expected is None:
            continue
        others = [one for one in chains.get(op.ref, []) if one.revision > op.expected]
        overtaken = any(begun.get(one.value, 0) < op.end for one in others)
        # With one that was on its way, too, though it may never have arrived.
        met = any(
            one.ref == op.ref and one.outcome == "unknown" and one.begin < op.end for one in writes
        )
        if not overtaken and not met:
            wrong.append(f"a conflict with nobody, expected {op.expected}: {op}")
    return wrong


def check_reads(ops: Sequence[Op], stored: Sequence[Stored], *, replicated: bool) -> list[str]:
    """Reads show what is stored, nothing older than they may, and nothing from the future."""
    chains = _by_ref(stored)
    begun = {value: op.begin for op in ops if op.do in WRITES for value in op.values}
    of_ref: defaultdict[str, list[Op]] = defaultdict(list)
    for op in ops:
        if op.ref and op.do in (*WRITES, "get"):
            of_ref[op.ref].append(op)
    wrong: list[str] = []
    for ref, group in of_ref.items():
        values = {one.revision: one.value for one in chains.get(ref, [])}
        for op in group:
            if op.do == "get" and op.outcome in ("ok", "absent"):
                own = replicated and op.outcome == "ok"
                floor = _floor(op, group, own=own)
                wrong += _check_read(op, values, begun, floor)
    return wrong


def _floor(read: Op, others: Iterable[Op], *, own: bool) -> int:
    """The revision that a read must not be older than; `own`: as its own connection knows it."""
    return max(
        (
            max(op.revisions)
            for op in others
            if op.end < read.begin
            and op.outcome == "ok"
            and op.revisions
            and (not own or op.worker == read.worker)
        ),
        default=0,
    )


def _check_read(op: Op, values: dict[int, str], begun: dict[str, int], floor: int) -> list[str]:
    if op.outcome == "absent":
        return [f"nothing found though {floor} was acknowledged: {op}"] if floor else []
    revision, value = op.revisions[0], op.values[0]
    if values.get(revision) != value:
        return [f"revision {revision} was read as {value}, and is {values.get(revision)}: {op}"]
    if revision < floor:
        return [f"revision {revision} was read after {floor} was known: {op}"]
    if begun.get(value, NEVER) > op.end:
        return [f"revision {revision} was read before it was written: {op}"]
    return []


def check_once(ops: Sequence[Op], stored: Sequence[Stored]) -> list[str]:
    """One result is stored for each piece of work, and everybody was served with that one."""
    results = [one for one in stored if one.topic.startswith("once.")]
    wrong = [
        f"{count} results are stored for {ref}"
        for ref, count in Counter(one.ref for one in results).items()
        if count > 1
    ]
    keys = Counter(one.content["key"] for one in results)
    wrong += [f"piece {key} has {count} results" for key, count in keys.items() if count > 1]
    by_key = {one.content["key"]: one.value for one in results}
    shown = Counter((one.ref, one.revision) for one in stored if one.topic == "shown")
    for op in ops:
        if op.do != "once" or op.outcome != "ok":
            continue
        if by_key.get(op.key) != op.values[0]:
            wrong.append(f"piece {op.key} is {by_key.get(op.key)}, served was {op.values[0]}: {op}")
        if op.ref.startswith("*/once."):
            continue
        if shown[op.ref, op.revisions[0]] != 1:
            wrong.append(f"the light memory {op.ref} was acknowledged and is lost: {op}")
    return wrong


def check_outputs(stored: Sequence[Stored]) -> list[str]:
    """Each input has its three outputs once, and all of the same run."""
    inputs = [one.value for one in stored if one.topic.startswith("in.")]
    outputs: defaultdict[str, list[Stored]] = defaultdict(list)
    for one in stored:
        if one.topic.startswith("out."):
            outputs[one.value].append(one)
    wrong: list[str] = []
    for value in inputs:
        made = outputs.pop(value, [])
        topics = sorted(one.topic for one in made)
        if topics != ["out.first", "out.second", "out.third"]:
            wrong.append(f"the input {value} has the outputs {topics}")
        if len({one.content["call"] for one in made}) > 1:
            wrong.append(f"the outputs of {value} are of different runs")
    return wrong + [f"outputs without an input: {value}" for value in outputs]


def check_groups(stored: Sequence[Stored], size: int = 3) -> list[str]:
    """Each complete group was merged once, with all its parts; no other was."""
    parts: defaultdict[str | None, list[str]] = defaultdict(list)
    wholes: defaultdict[str, list[Stored]] = defaultdict(list)
    for one in stored:
        if one.topic.startswith("parts."):
            parts[one.session].append(one.value)
        elif one.topic == "whole":
            wholes[one.value].append(one)
    wrong: list[str] = []
    for group, values in parts.items():
        merged = [one.content["parts"] for one in wholes.pop(str(group), [])]
        if merged != [sorted(values)] * (len(values) >= size):
            wrong.append(f"the group {group} of {sorted(values)} was merged as {merged}")
    return wrong + [f"merged without parts: {group}" for group in wholes]


def check_readings(history: History, stored: Sequence[Stored]) -> list[str]:
    """Watchers saw every revision once and in order, from where they began to where they ended."""
    everything = [(one.revision, one.value) for one in _load(stored)]
    acknowledged = {value: op.begin for op in history.ops if op.do in WRITES for value in op.values}
    wrong: list[str] = []
    for reading in history.readings:
        expected = everything
        if reading.since == "now":
            # Where it began nobody knows to the message, but not after what was written later.
            later = [
                revision
                for revision, value in everything
                if acknowledged.get(value, 0) > reading.ready
            ]
            shown = [revision for revision, _ in reading.seen]
            first = min([*later[:1], *shown[:1]], default=NEVER)
            expected = [one for one in everything if one[0] >= first]
        if not reading.ended:
            expected = expected[: len(reading.seen)]
        if reading.seen != expected:
            who = f"{reading.worker}, which watched since {reading.since},"
            wrong += [f"{who} {fault}" for fault in _shortened(_compare(reading.seen, expected))]
    return wrong


def _compare(seen: Sequence[tuple[int, str]], expected: Sequence[tuple[int, str]]) -> list[str]:
    wrong = [
        f"was shown {after[0]} right after {before[0]}"
        for before, after in pairwise(seen)
        if after[0] <= before[0]
    ]
    had, wanted = set(seen), set(expected)
    wrong += [f"missed {one}" for one in expected if one not in had]
    wrong += [f"was shown {one}, which is not there" for one in seen if one not in wanted]
    return wrong


def check_views(history: History, stored: Sequence[Stored]) -> list[str]:
    """A view at the end holds the newest revision of every memory, and nothing else."""
    newest = {one.ref: one.revision for one in _load(stored)}
    wrong: list[str] = []
    for worker, view in history.views.items():
        differing = sorted(view.items() ^ newest.items())
        wrong += [f"the view of {worker} differs in {one}" for one in _shortened(differing)]
    return wrong


def _load(stored: Iterable[Stored]) -> list[Stored]:
    return [one for one in stored if one.topic.startswith("load.")]


def _by_value(stored: Iterable[Stored]) -> dict[str, list[Stored]]:
    """What the writers wrote, by its unique value; what was made of it repeats the value."""
    found: defaultdict[str, list[Stored]] = defaultdict(list)
    for one in stored:
        if one.topic.startswith(("load.", "in.", "parts.")):
            found[one.value].append(one)
    return found


def _by_ref(stored: Iterable[Stored]) -> dict[str, list[Stored]]:
    found: defaultdict[str, list[Stored]] = defaultdict(list)
    for one in stored:
        found[one.ref].append(one)
    return found


def _shortened(findings: Sequence[object]) -> list[str]:
    told = [str(finding) for finding in findings[:SHOWN]]
    rest = len(findings) - len(told)
    return [*told, f"… and {rest} more of this kind"] if rest > 0 else told
