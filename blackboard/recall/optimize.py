"""Optimizes a copy of the embedded index: `python -m blackboard.recall.optimize DIRECTORY`.

A process of its own, because the engine holds the interpreter's lock for as long as this takes. It
is told on standard input what the index was built with, and gives way to the processes that serve.
"""

import os
import sys

import msgspec
import qdrant_edge as edge

from blackboard.recall.edge import config
from blackboard.recall.index import Signature


class _Order(msgspec.Struct):
    signature: Signature
    scrub: bool


def main(path: str, order: bytes) -> None:
    """Build the graphs, free what was removed, and make it durable."""
    os.nice(10)
    asked = msgspec.json.decode(order, type=_Order)
    shard = edge.EdgeShard.load(path, config(asked.signature, scrub=asked.scrub))
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin.buffer.read())
