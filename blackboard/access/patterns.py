"""Patterns as sets of topics: what two have in common, and whether one lies within another.

Two patterns have one pattern in common or nothing, so what somebody asks for and may read is again
a pattern, which the broker can filter by. A last `>` is zero or more tokens, as everywhere here.
"""

from typing import NamedTuple


class _Shape(NamedTuple):
    fixed: list[str]
    rest: bool


def meet(one: str, other: str) -> str | None:
    """The pattern of the topics that both select; None when there are none.

    It is written one way only: `*.>` selects what `>` does, and becomes `>`.
    """
    short, long = sorted((_shape(one), _shape(other)), key=lambda shape: len(shape.fixed))
    if not short.rest and (len(short.fixed) != len(long.fixed)):
        return None
    met = [_token(*pair) for pair in zip(short.fixed, long.fixed, strict=False)]
    if None in met:
        return None
    tokens = [token for token in met if token is not None] + long.fixed[len(short.fixed) :]
    return _text(_Shape(tokens, short.rest and long.rest))


def within(inner: str, outer: str) -> bool:
    """Whether every topic that `inner` selects is selected by `outer` too."""
    return meet(inner, outer) == _text(_shape(inner))


def _token(one: str, other: str) -> str | None:
    if one in ("*", other):
        return other
    return one if other == "*" else None


def _shape(pattern: str) -> _Shape:
    tokens = pattern.split(".")
    rest = tokens[-1] == ">"
    return _Shape(tokens[:-1] if rest else tokens, rest)


def _text(shape: _Shape) -> str:
    # Every topic has a token, so one star before the rest says nothing.
    fixed = [] if shape.rest and shape.fixed == ["*"] else shape.fixed
    return ".".join([*fixed, ">"] if shape.rest else fixed)
