"""What is condensed, when, how much, and what it may cost: the settings of the consolidator.

A file in TOML, because settings go by topic. The first policy whose topic matches holds; where none
does, the default. Without a file the default holds everywhere.

    [[policy]]
    topic = "cases.>"
    older_than = "7d"
    count = 100
    ratio = 8
    sources = "keep"

    [budget]
    tokens_per_hour = 200000
    calls_per_minute = 20
    money_per_day = 1.50
    price_in = 0.15     # for a million tokens
    price_out = 0.60
"""

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from blackboard.errors import InvalidError, SettingsError
from blackboard.retention import Rule
from blackboard.subjects import Pattern
from blackboard.times import parse_duration

OWN_KINDS = frozenset({"summary", "request", "answer", "result", "reuse"})
"""What the library itself makes: questions, answers and pointers to results lose their use when
they are condensed."""
SPANS = ("older_than", "age")
UNTOUCHABLE = 0.9
"""Memories of this priority, or above, are neither condensed nor retired."""
MIN_RATIO, MAX_RATIO = 1.5, 100.0
FEWEST = 2
"""Memories that are worth a summary."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of the memories under a topic.

    Attributes:
        topic: A pattern.
        condense: False leaves them alone.
        older_than: Only memories stored so long ago.
        count: A group is due when it has so many of them,
        bytes: or so many bytes of them,
        age: or two of them, the oldest of this age. None: not for this reason.
        ratio: How many times fewer tokens the summary has.
        sources: What becomes of what was condensed: `retire` (undo within a day), `keep`, or `ttl`:
            memories that have a ttl are condensed too, and left to it. Otherwise they are not: what
            was said to end shall not live on in a summary.
        kinds: Only of these kinds; empty: all but those of the library itself.
        summaries: Condense summaries, and what was made from them, too.
        model: Ask the model if there is one; False picks sentences.
    """

    topic: str = ">"
    condense: bool = True
    older_than: timedelta = timedelta(hours=24)
    count: int = 50
    bytes: int | None = None
    age: timedelta | None = None
    ratio: float = 5.0
    sources: Literal["retire", "keep", "ttl"] = "retire"
    kinds: tuple[str, ...] = ()
    summaries: bool = False
    model: bool = True

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InvalidError: A value breaks a rule; the text names it.
        """
        Pattern.parse(self.topic)
        if not MIN_RATIO <= self.ratio <= MAX_RATIO:
            raise InvalidError(f"ratio = {self.ratio} must be from {MIN_RATIO} to {MAX_RATIO}")
        if self.count < FEWEST:
            raise InvalidError(f"count = {self.count} must be at least {FEWEST}")
        if self.bytes is not None and self.bytes < 1:
            raise InvalidError(f"bytes = {self.bytes} must be at least 1")
        if self.older_than < timedelta(0):
            raise InvalidError(f"older_than = {self.older_than} must not be negative")

    def hastened(self, rule: Rule) -> "Policy":
        """The same, so that what has to go by a retention rule is condensed in time."""
        if rule.before != "summarise" or not self.condense:
            return self
        policy = self
        if rule.max_age is not None:
            age = rule.max_age if self.age is None else min(self.age, rule.max_age)
            older_than = min(self.older_than, rule.max_age)
            policy = msgspec.structs.replace(policy, age=age, older_than=older_than)
        if rule.max_per_session is not None:
            count = max(FEWEST, min(self.count, rule.max_per_session))
            policy = msgspec.structs.replace(policy, count=count)
        return policy


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What asking a model may cost, for each board; None is no limit.

    Attributes:
        tokens_per_hour: In and out, by the clock's hour.
        calls_per_minute: Requests, retries included, by the clock's minute.
        money_per_day: In the currency of the prices, by the day in UTC.
        price_in: Of a million tokens of a prompt.
        price_out: Of a million tokens of an answer.
    """

    tokens_per_hour: int | None = 1_000_000
    calls_per_minute: int | None = 30
    money_per_day: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """What tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1_000_000

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InvalidError: A value is negative, or money is limited and no price is given.
        """
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidError(f"{name} = {value} must not be negative")
        if self.money_per_day is not None and not (self.price_in or self.price_out):
            raise InvalidError("money_per_day needs price_in and price_out, per million tokens")


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of the consolidator."""

    policy: tuple[Policy, ...] = ()
    budget: Budget = Budget()

    def of(self, topic: str) -> Policy:
        """The policy that holds for a topic."""
        for one in self.policy:
            if Pattern(one.topic).matches(topic):
                return one
        return DEFAULT


DEFAULT = Policy()


def read_rules(path: Path | None) -> Rules:
    """Read the settings; without a file, the defaults.

    Raises:
        SettingsError: The file cannot be read, or says something that cannot be meant; the text
            names it.
    """
    if path is None:
        return Rules()
    try:
        tree = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(
            f"cannot read {str(path)!r} ({error.strerror}); set BLACKBOARD_CONSOLIDATE to a file "
            "of policies, or to nothing"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{str(path)!r} is no TOML: {error}") from error
    try:
        rules = msgspec.convert(_with_spans(tree), Rules)
        for one in (*rules.policy, rules.budget):
            one.check()
    except (msgspec.ValidationError, InvalidError) as error:
        raise SettingsError(f"{str(path)!r}: {error}") from error
    return rules


def _with_spans(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings with lengths of time as such, which TOML cannot say."""
    policies = tree.get("policy")
    for one in cast("list[object]", policies) if isinstance(policies, list) else ():
        if isinstance(one, dict):
            fields = cast("dict[str, object]", one)
            for name in SPANS:
                text = fields.get(name)
                if isinstance(text, str):
                    fields[name] = parse_duration(text, name)
    return tree
