"""What a support desk has to know of a customer, each fact with the question that asks for it.

The question is the whole interface: the board is asked it first, in these words and whatever words
the customer once used, and the customer only if the board does not know.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know.

    Attributes:
        name: The value of the tag `fact` on a note that is known to tell it.
        question: What is asked.
        sign: What a sentence that tells it looks like. It stands in for a model that reads: of the
            notes that recall finds it takes the best that can be an answer at all.
    """

    name: str
    question: str
    sign: re.Pattern[str]


def _fact(name: str, question: str, sign: str) -> Fact:
    return Fact(name, question, re.compile(sign, re.IGNORECASE))


_MONTH = (
    r"(january|february|march|april|may|june|july|august|september|october|november|december|"
    r"year|month|week|summer|winter|spring|autumn)"
)

ORDER = _fact("order", "What is your order number?", r"\b[A-Z]-\d{4}\b")
DEVICE = _fact(
    "device",
    "Which device is it: a speaker, a lamp, a radio or a kettle?",
    r"\b(speaker|lamp|radio|kettle)\b",
)
BOUGHT = _fact(
    "bought",
    "When did you buy the device?",
    rf"\b(bought|got|had|ordered|own)\b.*\b{_MONTH}",
)
PROBLEM = _fact(
    "problem",
    "What is wrong with the device?",
    r"\b(crackle[sd]?|flickers?|breaks? up|broken|will not|won't|stopped|dead|stays dark)\b",
)
TRIED = _fact(
    "tried",
    "What have you tried so far to repair it?",
    r"\b(I|we) (did|have|had|left|held|put|even)\b.*"
    r"\b(unplugged|reset|settings|restarted|bulb|socket|charger|cleaned|button)\b",
)
VERSION = _fact(
    "version", "Which software version does it show?", r"\b\d+\.\d+|\bversion\b|\bsoftware\b"
)
PAYMENT = _fact(
    "payment", "How did you pay?", r"\b(paid|charged to)\b.*\b(card|paypal|invoice|transfer|cash)\b"
)
REFUND = _fact(
    "refund",
    "How would you like to get your money back?",
    r"\b(back|rather|refund)\b.*\b(card|account|voucher|paypal|money|cash)\b",
)
PICKUP = _fact(
    "pickup",
    "When may we collect the parcel?",
    r"\b(mon|tues|wednes|thurs|fri|satur|sun|week)day\b",
)
