"""Which team this process works for, and what its memories are called.

Every program of the flock belongs to one team and is told which by `FLOCK_TEAM`, so that the same
file runs under `python`, `blackboard run`, compose and Kubernetes alike.
"""

import os

from leash import follow

from blackboard import Agent
from blackboard.subjects import check_name

VERSION = "1"


def setting(name: str) -> str | None:
    """Read one of the flock's own settings; None when it is unset or empty."""
    return os.environ.get(name) or None  # noqa: TID251 - a program reads its own settings


def _team() -> str:
    team = setting("FLOCK_TEAM")
    if team is None:
        raise SystemExit("error: set FLOCK_TEAM to the team this agent is for, like 'exceptions'")
    return check_name("FLOCK_TEAM", team)


TEAM = _team()
QUESTION = f"docs.question.{TEAM}"
"""What the team is asked: {"question", "folder", "documents"}, the last how many it reads."""
RECEIPT = f"docs.read.{TEAM}"
"""What the reader did about it: {"put", "kept", "retired", "left_out"}."""
SECTION = f"docs.section.{TEAM}"
SUMMARY = f"docs.summary.{TEAM}"
"""Summaries of sections, and the outline that says which of them make the report."""
REPORT = f"docs.report.{TEAM}"


def agent(role: str) -> Agent:
    """Declare this team's agent for a role; the team is in its name, as it is in its topics."""
    parent = setting("FLOCK_PARENT")
    if parent is not None:
        follow(int(parent))
    return Agent(f"{TEAM}-{role}", version=VERSION)
