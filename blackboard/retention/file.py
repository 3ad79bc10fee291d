"""A retention policy as an operator writes it.

    personal = ["pii"]             # labels of personal data; pii unless said, [] for none

    [[retain]]
    labels = ["pii"]               # all unless said; "user-*" is each label that begins so
    max_age = "30d"                # from the first storing on

    [[retain]]
    topics = ["cases.>"]           # all unless said
    max_age = "90d"
    max_per_session = 500          # the ones written last stay
    before = "summarise"           # remove unless said

    [[retain]]
    topics = ["legal.>"]
    keep = true                    # what matches stays for good, whatever rule follows

A policy is taken whole or not at all: what cannot be meant is refused with its line. Every personal
label needs a rule with an age that holds on all topics.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal, cast

from blackboard.access.source import Node, Source
from blackboard.errors import InvalidError, SettingsError
from blackboard.retention.policy import (
    MAX_AGE,
    MAX_RULES,
    PERSONAL,
    Retention,
    Rule,
    check_label,
)
from blackboard.subjects import Pattern
from blackboard.times import parse_duration

KEYS = ("topics", "labels", "max_age", "max_per_session", "before", "keep")
LEAST = timedelta(seconds=1)
MAX_NUMBER = 1_000_000_000


def read_retention(path: Path) -> Retention:
    """Read a policy file.

    Raises:
        SettingsError: It cannot be read, or something in it is wrong.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise SettingsError(
            f"cannot read the retention policy {str(path)!r} ({error.strerror})"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"the retention policy {str(path)!r} is not UTF-8 text") from error
    return parse_retention(text, str(path))


def parse_retention(text: str, name: str = "retention.toml") -> Retention:
    """Read a policy.

    Args:
        text: What the file holds.
        name: What to call it in errors.

    Raises:
        SettingsError: `<name>:<line>: <what is wrong, and what to do>`.
    """
    root = Source(text, name).root()
    parts = root.table("personal", "retain")
    personal = PERSONAL
    if "personal" in parts:
        named = parts["personal"]
        personal = () if named.value == [] else _each(named, check_label)
    nodes = parts["retain"].entries() if "retain" in parts else []
    if len(nodes) > MAX_RULES:
        raise nodes[MAX_RULES].failure(f"more than {MAX_RULES} rules; join some of them")
    rules = [_rule(node) for node in nodes]
    retention = Retention(rules=tuple(rules), personal=personal)
    _check_personal(retention, nodes, parts.get("personal", root))
    return retention


def _rule(node: Node) -> Rule:
    parts = node.table(*KEYS)
    rule = Rule(
        topics=_each(parts["topics"], _pattern) if "topics" in parts else (">",),
        labels=_each(parts["labels"], check_label) if "labels" in parts else (),
        max_age_s=_age(parts["max_age"]) if "max_age" in parts else None,
        max_per_session=_number(parts["max_per_session"]) if "max_per_session" in parts else None,
        before=_before(parts["before"]) if "before" in parts else "remove",
    )
    keeps = _is_true(parts["keep"]) if "keep" in parts else False
    limited = rule.max_age_s is not None or rule.max_per_session is not None
    if keeps and (limited or rule.before != "remove"):
        raise parts["keep"].failure(
            "keep = true is for a rule without limits; take out one of both"
        )
    if not keeps and not limited:
        raise node.failure(
            f"the rule for {rule} limits nothing; give it max_age or max_per_session, or "
            "keep = true if what matches shall stay for good"
        )
    return rule


def _check_personal(retention: Retention, nodes: Sequence[Node], named: Node) -> None:
    for label, blamed in retention.uncovered().items():
        if blamed is None:
            raise named.failure(
                f"no rule gives an age to everything under the personal label {label!r}; add "
                f'[[retain]] with labels = ["{label}"] and max_age = "30d", or say which labels '
                "are personal: personal = [] if none is"
            )
        node = nodes[retention.rules.index(blamed)]
        if blamed.max_age_s is None:
            do = "give it max_age, or labels that are not personal"
        else:
            do = "a summary of it would be as personal; take out before, or give it other labels"
        raise node.failure(
            f"the rule for {blamed} also holds for memories under the personal label {label!r}, "
            f"which have to go at some age; {do}"
        )


def _each(node: Node, check: Callable[[str], str]) -> tuple[str, ...]:
    texts = node.texts()
    for text in texts:
        try:
            check(text)
        except InvalidError as error:
            raise node.failure(str(error), at=text) from error
    return tuple(texts)


def _pattern(text: str) -> str:
    return Pattern.parse(text).text


def _age(node: Node) -> float:
    if not node.holds(str):
        raise node.failure('max_age must be a string such as "12h", "30d" or "52w"')
    try:
        age = parse_duration(cast("str", node.value), "max_age")
    except InvalidError as error:
        raise node.failure(str(error)) from error
    if not LEAST <= age <= MAX_AGE:
        raise node.failure(f"max_age = {node.value!r} must be from 1 s to 100 years")
    return age.total_seconds()


def _number(node: Node) -> int:
    value = node.value
    if type(value) is not int or not 1 <= value <= MAX_NUMBER:
        raise node.failure("max_per_session must be a whole number, at least 1")
    return value


def _before(node: Node) -> Literal["remove", "summarise"]:
    if node.value == "remove":
        return "remove"
    if node.value == "summarise":
        return "summarise"
    raise node.failure(f'before = {node.value!r} must be "remove" or "summarise"')


def _is_true(node: Node) -> bool:
    if node.value is not True:
        raise node.failure("keep can only be true; leave it out otherwise")
    return True
