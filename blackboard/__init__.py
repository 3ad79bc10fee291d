"""Shared memory for pools of AI agents: a blackboard on NATS JetStream."""

from blackboard.board import Blackboard
from blackboard.messages import Cost, Memory
from blackboard.subjects import Ref

__all__ = ["Blackboard", "Cost", "Memory", "Ref"]
