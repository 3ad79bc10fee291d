"""Billing: payments and refunds. Run it with `blackboard run agents/support/billing.py`."""

from department import department
from facts import ORDER, PAYMENT, REFUND

agent = department(
    "billing",
    needs=[ORDER, PAYMENT, REFUND],
    errand="I have put your case right, and the money reaches you the way you wished.",
)

if __name__ == "__main__":
    agent.run()
