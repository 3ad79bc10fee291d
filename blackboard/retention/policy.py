"""The rules of a board, and which of them holds for a memory.

The first rule whose topics and labels match holds, and no other, as with the policies of the
consolidator: so an exception stands before what it is an exception from.

A memory's age counts from when it was first stored, whatever was revised since. Somebody who is
told that it is gone after 30 days need not ask how often it was touched.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from blackboard.codec import encode_record
from blackboard.errors import InvalidError
from blackboard.subjects import Pattern

logger = logging.getLogger(__name__)

RETENTION = "blackboard-retention"
"""The key in the stream's metadata; its value is the JSON of `Retention`."""
PERSONAL = ("pii",)
"""Labels that count as personal where nobody says otherwise."""
SHIELD = 0.9
"""Memories of this priority, or above, stay, unless their label is personal."""
MAX_RULES = 200
MAX_AGE = timedelta(days=36_500)
_LABEL = re.compile(r"(?=.)[A-Za-z0-9_-]{0,64}\*?\Z")


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds for the memories under some topics and labels.

    Attributes:
        topics: Patterns; one of them has to match.
        labels: Labels, or the beginnings of labels with a `*` behind; empty for all.
        max_age_s: Seconds from a memory's first storing to its end; absent for no end.
        max_per_session: Memories that a session may have, those written last; absent for no limit.
        before: `remove`: they go; `summarise`: they stay until a summary stands for them.
    """

    topics: Annotated[tuple[str, ...], Meta(min_length=1)] = (">",)
    labels: tuple[str, ...] = ()
    max_age_s: Annotated[float, Meta(ge=1)] | None = None
    max_per_session: Annotated[int, Meta(ge=1)] | None = None
    before: Literal["remove", "summarise"] = "remove"

    @property
    def max_age(self) -> timedelta | None:
        """The age as a length of time."""
        return None if self.max_age_s is None else timedelta(seconds=self.max_age_s)

    @property
    def key(self) -> str:
        """Names the rule by what it says, so that it keeps its figures when others change."""
        return hashlib.sha256(encode_record(self)).hexdigest()[:16]

    def matches(self, topic: str, access: str) -> bool:
        """Whether it holds for a topic under a label, if no rule before it does."""
        labelled = not self.labels or any(_has(label, access) for label in self.labels)
        return labelled and any(Pattern(one).matches(topic) for one in self.topics)

    def meets(self, label: str) -> bool:
        """Whether it holds for something under a label, or under one that begins so."""
        return not self.labels or any(_meet(own, label) for own in self.labels)

    def covers(self, label: str) -> bool:
        """Whether it holds for all topics under a label, or under all that begin so."""
        wide = not self.labels or any(
            _has(own, label.removesuffix("*")) and (own.endswith("*") or not label.endswith("*"))
            for own in self.labels
        )
        return wide and ">" in self.topics

    def __str__(self) -> str:
        labels = f" under {', '.join(self.labels)}" if self.labels else ""
        return f"{', '.join(self.topics)}{labels}"


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """The retention policy of a board.

    What goes under a personal label is erased as what was forgotten is.

    Attributes:
        rules: The first that matches holds; what none matches stays for good.
        personal: Labels of personal data, or their beginnings with a `*` behind; each has an age.
    """

    rules: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)] = ()
    personal: tuple[str, ...] = PERSONAL

    @property
    def digest(self) -> str:
        """Names the policy by what it says."""
        return hashlib.sha256(encode_record(self)).hexdigest()[:16]

    def rule_of(self, topic: str, access: str) -> Rule | None:
        """The rule that holds for a topic under a label; None when it stays for good."""
        return next((rule for rule in self.rules if rule.matches(topic, access)), None)

    def is_personal(self, access: str) -> bool:
        """Whether a label is one of personal data."""
        return any(_has(label, access) for label in self.personal)

    def shields(self, access: str, priority: float) -> bool:
        """Whether a memory's priority keeps it; under a personal label none does."""
        return priority >= SHIELD and not self.is_personal(access)

    def age_by(self, rule: Rule | None, access: str, priority: float) -> timedelta | None:
        """How old a memory may get that ends by itself; None when somebody has to decide."""
        if rule is None or rule.before == "summarise" or self.shields(access, priority):
            return None
        return rule.max_age

    def uncovered(self) -> dict[str, Rule | None]:
        """Personal labels that lack an age on some topic, and the rule that is to blame, if one."""
        found: dict[str, Rule | None] = {}
        for label in self.personal:
            for rule in self.rules:
                if not rule.meets(label):
                    continue
                if rule.max_age_s is None or rule.before == "summarise":
                    found[label] = rule
                    break
                if rule.covers(label):
                    break
            else:
                found[label] = None
        return found

    def check(self) -> None:
        """Refuse what cannot be meant, personal labels aside.

        Raises:
            InvalidError: The text names the rule that is broken.
        """
        for label in (*self.personal, *(one for rule in self.rules for one in rule.labels)):
            check_label(label)
        for rule in self.rules:
            for topic in rule.topics:
                Pattern.parse(topic)
            if rule.max_age is not None and rule.max_age > MAX_AGE:
                raise InvalidError("max_age is above 100 years; leave it out to keep for good")


def check_label(label: str) -> str:
    """Return a label, or the beginning of labels with a `*` behind.

    Raises:
        InvalidError: It is none.
    """
    if not _LABEL.match(label):
        raise InvalidError(
            f"label {label!r} must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -; a * at its end "
            "stands for whatever follows"
        )
    return label


def retention_of(config: Mapping[str, Any]) -> Retention | None:
    """The policy in a stream's settings; None when it has none that can be read."""
    metadata: Mapping[str, str] = config.get("metadata") or {}
    text = metadata.get(RETENTION)
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=Retention)
        found.check()
    except (msgspec.MsgspecError, InvalidError, OverflowError) as error:
        logger.debug("the board's retention policy cannot be read, so nothing goes: %s", error)
        return None
    return found


def _has(label: str, access: str) -> bool:
    return access.startswith(label[:-1]) if label.endswith("*") else label == access


def _meet(one: str, other: str) -> bool:
    """Whether some label is meant by both."""
    if one.endswith("*") and other.endswith("*"):
        return one[:-1].startswith(other[:-1]) or other[:-1].startswith(one[:-1])
    return _has(one, other) or _has(other, one)
