"""Seeded runs: real servers and workers, faults by a schedule, and the proof that all was right."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.schedule import make_schedule
from tests.replicas import ROOT

TOPOLOGIES = ("one", "three")
SECONDS = 12
LIMIT_S = 400


def run(directory: Path, *arguments: object, limit_s: float = LIMIT_S) -> tuple[int, str]:
    """One run in a process of its own: its exit code, and all that it said."""
    command = [sys.executable, "-m", "tests.faults", "--directory", directory / "run", *arguments]
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its servers and workers, too
    print(said)  # noqa: T201 - seed and schedule
    return process.returncode, said


@pytest.mark.timeout(150)
@pytest.mark.parametrize("topology", ["one", pytest.param("three", marks=pytest.mark.faults)])
def test_a_short_run_is_clean(topology: str, tmp_path: Path):
    """Through proxies, which need no rights, so that it runs everywhere."""
    choice = ("--seed", 0, "--topology", topology, "--seconds", 2, "--network", "proxies")

    assert run(tmp_path, *choice, limit_s=140)[0] == 0


@pytest.mark.faults
@pytest.mark.timeout(LIMIT_S + 20)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_seeded_run_is_clean(topology: str, seed: int, tmp_path: Path):
    choice = ("--seed", seed, "--topology", topology, "--seconds", SECONDS)

    assert run(tmp_path, *choice)[0] == 0


@pytest.mark.faults
@pytest.mark.timeout(LIMIT_S + 20)
@pytest.mark.parametrize(
    ("bug", "finding"),
    [
        ("early", "acknowledged and lost"),
        ("blind", "replaced"),
        ("drop", "missed"),
        ("deaf", "served was"),
    ],
)
def test_a_planted_bug_is_found(bug: str, finding: str, tmp_path: Path):
    choice = ("--seed", 1, "--topology", "one", "--seconds", 6, "--planted", bug)
    code, said = run(tmp_path, *choice)

    assert code == 1
    assert any(finding in line for line in said.splitlines() if line.startswith("FINDING"))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_seed_decides_the_schedule(topology: str):
    schedules = [make_schedule(seed, topology, 12.0) for seed in (1, 1, 2)]  # pyright: ignore[reportArgumentType] - one of the two

    assert schedules[0] == schedules[1] != schedules[2]
    assert any(fault.whom for fault in schedules[0])
    assert any(not fault.whom for fault in schedules[0])
