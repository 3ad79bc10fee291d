"""Shared memory for pools of AI agents: a blackboard on NATS JetStream."""

from blackboard.agent import Agent
from blackboard.board import Blackboard
from blackboard.hits import Hit, Hits
from blackboard.messages import Cost, Memory
from blackboard.subjects import Ref

__all__ = ["Agent", "Blackboard", "Cost", "Hit", "Hits", "Memory", "Ref"]
