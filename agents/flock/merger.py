"""The merger: writes a team's report as soon as every section has its summary, and after changes.

Run it with `FLOCK_TEAM=exceptions blackboard run agents/flock/merger.py`.
"""

from outline import complete, compose
from team import REPORT, SUMMARY, TEAM, agent as declare

from blackboard import Blackboard, Memory

agent = declare("merger")


@agent.gather(SUMMARY, by="session", until=complete, to=REPORT, start="start")
async def merge(parts: list[Memory], board: Blackboard) -> Memory:
    """Put the summaries in the order of the outline."""
    return Memory(content=compose(parts), kind="report", tags={"team": TEAM})


if __name__ == "__main__":
    agent.run()
