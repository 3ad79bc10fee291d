"""Returns: takes goods back. Run it with `blackboard run agents/support/returns.py`."""

from department import department
from facts import BOUGHT, DEVICE, ORDER, PICKUP, PROBLEM, REFUND

agent = department(
    "returns",
    needs=[ORDER, DEVICE, PROBLEM, BOUGHT, REFUND, PICKUP],
    errand="We collect the parcel when you said, and your refund follows.",
)

if __name__ == "__main__":
    agent.run()
