"""The data-subject report: everything that a board holds about one person, and who read it.

A board names a person by the `user` of its memories. The report has all of them in every revision
that is left, what was made from them, what was noted beside them, and every access that somebody
recorded, as one page for people and as one JSON document for programs. Both are written from one
reading of the board, through a file on disk, so that a hundred thousand memories take no more room
than their names.
"""

from blackboard.report.document import FORMAT, Head, Report
from blackboard.report.gather import Gathered, gathered, recorded
from blackboard.report.page import write_page
from blackboard.report.tree import write_tree

__all__ = [
    "FORMAT",
    "Gathered",
    "Head",
    "Report",
    "gathered",
    "recorded",
    "write_page",
    "write_tree",
]
