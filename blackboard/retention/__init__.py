"""Retention: how long memories stay, by topic and label.

    policy    the rules, and which of them holds for a memory
    file      the same as an operator writes it, refused with its line when it cannot be meant
    tally     what the steward has removed for each rule, and how far it looked

The policy lies in the metadata of the board's own stream. Whoever may write the board reads that
anyway, only an operator may change it, and a backup of the board has it.
"""

from blackboard.retention.file import parse_retention, read_retention
from blackboard.retention.policy import PERSONAL, RETENTION, Retention, Rule, retention_of
from blackboard.retention.tally import Removed, Tally, tally_subject

__all__ = [
    "PERSONAL",
    "RETENTION",
    "Removed",
    "Retention",
    "Rule",
    "Tally",
    "parse_retention",
    "read_retention",
    "retention_of",
    "tally_subject",
]
