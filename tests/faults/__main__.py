"""`python -m tests.faults --seed N --topology one|three`: one seeded run, printed.

It prints the schedule first and the findings last, and ends with 1 when there are any. Where it is
allowed, it moves into namespaces of its own first (users, network, mounts and processes): nothing
it does there reaches the machine, and all ends when it ends.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio

from tests.faults.run import Report, Run
from tests.faults.schedule import Fault, make_schedule

UNSHARE = ("unshare", "-rnmp", "--fork", "--kill-child", "--mount-proc")
INSIDE = "--inside"
PLANTED: dict[str, tuple[dict[str, str], list[Fault]]] = {
    "early": (
        {"writer": "early"},
        # While the broker stands still, only who acknowledges before storing goes on; then it dies.
        [Fault(1.0, "stop", 3.0), Fault(2.5, "kill", 0.5, whom="writer", number=0)],
    ),
    "blind": ({"writer": "blind"}, []),
    "drop": ({"reader": "drop"}, []),
    "deaf": ({"caller": "deaf"}, []),
}
"""Bugs that a run can be given, and the faults that bring them to light."""


def cannot_isolate() -> str:
    """Why this machine allows no namespaces of our own; empty when it does."""
    missing = [name for name in ("unshare", "ip", "nsenter", "mount") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    wire = "ip link add name probe0 type veth peer name probe1"
    inside = f"unshare -n true && {wire} && mount -t tmpfs none /mnt"
    probe = subprocess.run(
        [*UNSHARE, "sh", "-c", inside], capture_output=True, text=True, check=False
    )
    return probe.stderr.strip() if probe.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--topology", choices=("one", "three"), required=True)
    parser.add_argument("--seconds", type=float, default=12.0, help="of faults (%(default)s)")
    parser.add_argument("--network", choices=("auto", "namespaces", "proxies"), default="auto")
    parser.add_argument("--planted", choices=tuple(PLANTED), help="a bug for the checker to find")
    parser.add_argument("--directory", type=Path, help="new; keeps all that the run wrote")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside and options.network != "proxies":
        reason = cannot_isolate()
        if not reason:
            again = [*UNSHARE, sys.executable, "-m", "tests.faults", *sys.argv[1:], INSIDE]
            os.execvp(again[0], again)  # noqa: S606 - the same program, elsewhere
        _say(f"no namespaces ({reason}): proxies on loopback, no small file systems")
        if options.network == "namespaces":
            return 2
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        return _run(options, options.directory or Path(temporary) / "run")


def _run(options: argparse.Namespace, directory: Path) -> int:
    directory.mkdir(parents=True)
    bugs, schedule = PLANTED[options.planted] if options.planted else ({}, [])
    schedule = schedule or make_schedule(options.seed, options.topology, options.seconds)
    _say(f"seed {options.seed}, topology {options.topology}, {options.seconds:g} s")
    for fault in schedule:
        _say(f"  {fault}")
    run = Run(
        directory,
        options.topology,
        schedule,
        seconds=options.seconds,
        seed=options.seed,
        namespaces=options.inside,
        say=_say,
        planted=bugs,
    )
    report = anyio.run(run.report)
    _tell(report)
    return 1 if report.findings else 0


def _tell(report: Report) -> None:
    for what, why in report.skipped.items():
        _say(f"skipped: {what}: {why}")
    outcomes = ", ".join(f"{name} {count}" for name, count in report.outcomes.items())
    _say(f"{outcomes}; {report.stored} revisions; in {report.seconds:g} s")
    if report.complaints:
        _say(f"full disks were complained of {report.complaints} times")
    _say(f"longest time without an acknowledged write: {report.longest_pause_s:g} s")
    for finding in report.findings:
        _say(f"FINDING {finding}")
    _say("findings: " + str(len(report.findings)))


_say = partial(print, flush=True)


if __name__ == "__main__":
    sys.exit(main())
