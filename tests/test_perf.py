"""Every measurement runs, checks what it measured, and leaves lines and nothing else behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from perf.parties import Given
from perf.processes import child
from perf.servers import nats_server

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(
    path.stem
    for path in (ROOT / "perf").glob("bench_*.py")
    if path.stem not in {"bench_consolidate", "bench_embed", "bench_locomo", "bench_summarize"}
)
FIELDS = {"bench", "what", "n", "p50", "p90", "p99", "max", "rate", "commit", "machine", "versions"}


def started(name: str, results: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, str(ROOT / "perf" / f"{name}.py"), "--tiny", "--results", str(results)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def server_of(bench: psutil.Process) -> list[psutil.Process]:
    return [one for one in bench.children(recursive=True) if one.name() == "nats-server"]


@pytest.mark.parametrize("name", NAMES)
def test_a_bench_measures_and_keeps_its_figures(name: str, tmp_path: Path) -> None:
    process = started(name, tmp_path)

    said, errors = process.communicate(timeout=50)

    assert process.returncode == 0, errors
    kept = "".join(path.read_text() for path in tmp_path.iterdir())
    lines = [json.loads(line) for line in kept.splitlines()]
    assert lines
    for line in lines:
        assert line.keys() >= FIELDS
        assert 0 < line["p50"] <= line["p99"] <= line["max"]
        assert line["what"].rpartition(": ")[2] in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bench_that_is_interrupted_leaves_no_server_behind(
    number: signal.Signals, tmp_path: Path
) -> None:
    process = started("bench_growth", tmp_path)
    bench = psutil.Process(process.pid)
    try:
        deadline = time.monotonic() + 20
        while not (servers := server_of(bench)):
            assert time.monotonic() < deadline, "no server was started"
            time.sleep(0.01)

        process.send_signal(number)
        process.communicate(timeout=20)
    finally:
        process.kill()

    assert process.returncode not in (0, None)
    assert not psutil.wait_procs(servers, timeout=5)[1]


def test_the_server_of_a_bench_ends_with_its_block() -> None:
    with nats_server() as server:
        process = psutil.Process(server.pid)
        home = Path(process.cwd())
        assert home.exists()

    assert not process.is_running()
    assert not home.exists()


async def test_a_peer_that_cannot_run_says_why(tmp_path: Path) -> None:
    given = Given.make(20)
    given.rows = np.zeros((len(given.pieces) + len(given.questions), 3))
    given.write(tmp_path)
    folders = [str(tmp_path), str(tmp_path / "chroma")]

    async with child("peers.chroma", folders=folders) as peer:  # in our environment, without it
        told = peer.greeting

    assert told == {"failed": "ModuleNotFoundError: No module named 'chromadb'"}
