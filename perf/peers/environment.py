"""The peers' own environment: `perf/.peers`, so that none of what they need gets into ours.

Each is installed in a version that was tried; what it needs in turn is the newest that fits.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.machine import ROOT

HOME = ROOT / "perf" / ".peers"
PYTHON = HOME / "bin" / "python"
SILENT = {
    "ANONYMIZED_TELEMETRY": "False",
    "CHROMA_OTEL_COLLECTION_ENDPOINT": "",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "MEM0_TELEMETRY": "False",
    "OTEL_SDK_DISABLED": "true",
}
"""No peer tells anybody that it was measured."""
PROBE = """
import importlib.metadata as metadata, json
print(json.dumps({one.name.lower(): one.version for one in metadata.distributions()}))
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that agents' memories are kept in elsewhere.

    Attributes:
        name: In tables.
        module: The program in `perf.peers` that runs it.
        needs: What is installed for it, the peer itself first.
        does: What its figures include and what not.
    """

    name: str
    module: str
    needs: Sequence[str]
    does: str


PEERS = (
    Peer(
        "Chroma",
        "chroma",
        ("chromadb==1.5.9", "numpy"),
        "in its caller's process; dense only, by an approximate graph that adding builds; content "
        "and metadata come with the hits; kept on disk; a call adds many",
    ),
    Peer(
        "mem0",
        "mem0",
        ("mem0ai==2.2.1", "numpy"),
        "in its caller's process, infer=False; dense only here, because its words need fastembed "
        "and spaCy with models from the network; over Qdrant's local mode (its default), which "
        "compares with all memories; content comes with the hits; kept on disk, with a history; "
        "adds one by one; cannot search without a filter, so `all` is one agent's",
    ),
    Peer(
        "LangGraph",
        "langgraph",
        ("langgraph==1.2.24", "numpy"),  # numpy as its documentation advises
        "InMemoryStore, in its caller's process; dense only, comparing with all memories; content "
        "comes with the hits; nothing is kept; adds one by one",
    ),
)


def prepare(*, install: bool) -> dict[str, str]:
    """Make the environment, or see what is there.

    Args:
        install: Install what is missing, which needs the package index.

    Returns:
        By the names of those that are left out, why.
    """
    have = _installed()
    if install and "pip" not in have:
        made = _run([sys.executable, "-m", "venv", "--clear", str(HOME)])
        if made is not None:
            return {peer.name: f"no environment could be made ({made})" for peer in PEERS}
        have = _installed()
    left_out: dict[str, str] = {}
    for peer in PEERS:
        missing = [need for need in peer.needs if not _has(have, need)]
        if not missing:
            continue
        if not install:
            left_out[peer.name] = "not installed (`python -m perf.bench_peers` does that)"
            continue
        quiet = ["--disable-pip-version-check", "--quiet", "--no-input"]
        failure = _run([str(PYTHON), "-m", "pip", "install", *quiet, *missing])
        if failure is not None:
            left_out[peer.name] = f"pip could not install {' '.join(missing)} ({failure})"
        have = _installed()
    return left_out


def versions() -> dict[str, str]:
    """Of the peers that are installed, and of what matters most below them."""
    have = _installed()
    names = [peer.needs[0].partition("==")[0] for peer in PEERS]
    return {name: have[name] for name in (*names, "qdrant-client", "numpy") if name in have}


def surroundings(home: Path) -> dict[str, str]:
    """The environment variables of a peer: none of the caller's keys, endpoints and settings."""
    own = {"HOME": str(home), "TMPDIR": str(home), "MEM0_DIR": str(home / "mem0")}
    return {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", **own, **SILENT}


def _installed() -> Mapping[str, str]:
    try:
        said = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    except (OSError, subprocess.CalledProcessError):
        return {}
    return json.loads(said.stdout)


def _has(have: Mapping[str, str], need: str) -> bool:
    name, _, version = need.partition("==")
    return name in have and version in ("", have[name])


def _run(words: Sequence[str]) -> str | None:
    """Run a command; why it failed, in a line, or None."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
    errors = [line for line in lines if line.startswith(("ERROR", "Error"))]
    return (errors or lines)[-1]
