"""How many tokens a text takes in a prompt, estimated: no model's tokenizer is at hand here."""

import re

_TOKEN = re.compile(r"[A-Za-z]{1,4}|[0-9]{1,3}|[^\sA-Za-z0-9]")


def tokens(text: str) -> int:
    """Estimate the tokens of a text, rather too many than too few.

    Tokenizers differ and none is at hand here: a token for every four letters of a word and every
    three digits begun, and for every other character that is no space.
    """
    return len(_TOKEN.findall(text)) + text.count("\n")
