"""Technical support: mends things. Run it with `blackboard run agents/support/technical.py`."""

from department import department
from facts import BOUGHT, DEVICE, PROBLEM, TRIED, VERSION

agent = department(
    "technical",
    needs=[DEVICE, PROBLEM, BOUGHT, TRIED, VERSION],
    errand="You have done what can be done at home, so our workshop takes over; it is free of "
    "charge under your guarantee.",
)

if __name__ == "__main__":
    agent.run()
