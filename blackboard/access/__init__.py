"""Who may do what on which board: the policy, the rights in it, and what the broker is told.

One policy decides everywhere. It is compiled to the broker's permissions, which hold whatever a
client does, and to one `Rights` an agent and board, which the services ask before they answer.
Identity is (board, agent): a board is a tenant and shares nothing with another.

    source    the policy file, with the line of each value
    roles     named sets of rights
    policy    the agents, and all that can be wrong
    decision  why something is allowed or not
    rights    what one agent may do: the document that services decide by
    filters   the same as subjects of the broker
    identity  who a connection is, and the names that are reserved
    keys      one nkey per agent, and the files they lie in
    broker    the permissions, as the broker's configuration
"""

from blackboard.access.decision import Decision, decide
from blackboard.access.policy import Member, Policy
from blackboard.access.rights import PROBE, Grant, Quota, Rights, reserved_rights

__all__ = [
    "PROBE",
    "Decision",
    "Grant",
    "Member",
    "Policy",
    "Quota",
    "Rights",
    "decide",
    "reserved_rights",
]
