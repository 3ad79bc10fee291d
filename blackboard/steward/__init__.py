"""The steward: deletes what was taken back, and large content that no memory names.

Taking a memory back only puts a tombstone over it, so that every reader hears of it. What lies
behind the tombstone is deleted here, oldest first, because deleting the newest message of a subject
would bring the one before it back. Expired memories need nobody: the broker removes them.

Deleting is idempotent, so any number of stewards may serve a broker, and one that was killed leaves
nothing half done that the next does not finish.
"""

from blackboard.steward.service import serve
from blackboard.steward.sweep import Swept, sweep

__all__ = ["Swept", "serve", "sweep"]
