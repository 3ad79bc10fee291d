"""What goes wrong in a run, and when: decided by one integer, so that a run can be had again.

Faults of servers follow one another with a pause between, because the guarantees are those of a
cluster that has lost one member (or all of them at once); faults of agents happen at any time.
Who leads is looked up when the fault begins; everything else is decided here.
"""

import random
from typing import Literal

import msgspec

Topology = Literal["one", "three"]

ON_ONE = ("kill", "kill", "stop", "cut", "slow", "full")
ON_THREE = (
    "kill leader",
    "kill leader",
    "kill follower",
    "kill all",
    "stop leader",
    "stop follower",
    "cut leader",
    "cut follower",
    "cut one way",
    "cut pair",
    "cut clients",
    "slow leader",
    "full leader",
)
LONGEST_S = {"one": 3.0, "three": 7.0}
"""Longer than the 4 to 9 s after which others take over would leave no time for other faults."""
ROLES = ("writer", "writer", "pool", "pool", "caller", "holder", "reader", "steward")
"""`holder` is the caller that holds a claim at that moment."""
AGENT_FAULTS = ("kill", "kill", "stop")


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong.

    Attributes:
        at_s: When it begins, counted from when all are at work.
        what: Which fault; of an agent when `whom` is set, else of servers.
        for_s: How long; a killed process is started again after that.
        whom: The role of the agent.
        number: Chooses among the agents of that role, or the followers.
    """

    at_s: float
    what: str
    for_s: float
    whom: str = ""
    number: int = 0

    def __str__(self) -> str:
        who = f" {self.whom} {self.number}" if self.whom else ""
        return f"{self.at_s:5.1f} s  {self.what}{who} for {self.for_s:.1f} s"


def make_schedule(seed: int, topology: Topology, seconds: float) -> list[Fault]:
    """The faults of a run, by their beginning; the same for the same arguments."""
    dice = random.Random(f"{topology} {seed}")
    faults = _of_servers(dice, topology, seconds) + _of_agents(dice, seconds)
    return sorted(faults, key=lambda fault: fault.at_s)


def _of_servers(dice: random.Random, topology: Topology, seconds: float) -> list[Fault]:
    kinds = ON_ONE if topology == "one" else ON_THREE
    faults: list[Fault] = []
    at_s = dice.uniform(0.5, 2.0)
    while at_s < seconds:
        for_s = dice.uniform(0.2, LONGEST_S[topology])
        what = dice.choice(kinds)
        faults.append(Fault(round(at_s, 2), what, round(for_s, 2), number=dice.randrange(2)))
        at_s += for_s + dice.uniform(0.5, 2.5)
    return faults


def _of_agents(dice: random.Random, seconds: float) -> list[Fault]:
    faults: list[Fault] = []
    at_s = dice.uniform(0.5, 2.0)
    while at_s < seconds:
        what = dice.choice(AGENT_FAULTS)
        # Beyond the lease and the ack deadline of the programs, which are 1 s.
        for_s = dice.uniform(0.0, 1.0) if what == "kill" else dice.uniform(0.2, 3.0)
        faults.append(
            Fault(
                round(at_s, 2),
                what,
                round(for_s, 2),
                whom=dice.choice(ROLES),
                number=dice.randrange(2),
            )
        )
        at_s += dice.uniform(0.5, 2.5)
    return faults
