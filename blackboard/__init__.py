"""Shared memory for pools of AI agents: a blackboard on NATS JetStream.

The names are loaded when they are asked for, so that the command line can answer a typing error,
and a Ctrl-C, before the client of the broker is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["Agent", "Blackboard", "Cost", "Hit", "Hits", "Memory", "Ref"]

if TYPE_CHECKING:
    from blackboard.agent import Agent
    from blackboard.board import Blackboard
    from blackboard.hits import Hit, Hits
    from blackboard.messages import Cost, Memory
    from blackboard.subjects import Ref
else:  # a type checker would take any name that `__getattr__` may give
    _HOMES = {
        "Agent": "blackboard.agent",
        "Blackboard": "blackboard.board",
        "Cost": "blackboard.messages",
        "Hit": "blackboard.hits",
        "Hits": "blackboard.hits",
        "Memory": "blackboard.messages",
        "Ref": "blackboard.subjects",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
