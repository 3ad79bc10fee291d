"""The six teams of the demo: each is one question that a person would ask."""

from typing import Final

DOCUMENTS_READ: Final = 10
"""How many documents a team reads: the best for its question."""

PYTHON_QUESTIONS: Final = {
    "exceptions": "How are exceptions raised, caught and cleaned up after?",
    "classes": "How do I define a class and customize its instances?",
    "functions": (
        "How are functions defined and called, and how do arguments reach their parameters?"
    ),
    "loops": "How does a for loop iterate, and how does a generator yield its values?",
    "coroutines": "How do I write a coroutine, and what happens while it awaits another?",
    "names": "Which names does a scope bind, and what does an assignment change?",
}
"""Questions to the Python Language Reference."""

GENERAL_QUESTIONS: Final = {
    "overview": "What is this about, who uses it, and why does it exist?",
    "start": "How do I install it, set it up and run the first example?",
    "design": "What are the main parts, and how do they work together?",
    "data": "Which data is read, written and stored, and in what format?",
    "failure": "What can go wrong, which errors are raised, and how is a failure handled?",
    "limits": "Which limits, costs and requirements are there, and how is it tested?",
}
"""Questions to documents that we know nothing about."""
