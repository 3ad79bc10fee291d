"""Who may do what on which board: the policy, the rights in it, and what the broker is told.

One policy decides everywhere. It is compiled to the broker's permissions, which hold whatever a
client does, and to one `Rights` an agent and board, which the services ask before they answer.
Identity is (board, agent): a board is a tenant and shares nothing with another.
"""

from blackboard.access.rights import Grant, Rights

__all__ = ["Grant", "Rights"]
