"""The customers of the support desk: what each says, and what was told so far.

What is a repeated question is decided here and nowhere else, from the customer's side: somebody at
this desk, whoever it was, has been told the answer already.
"""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from blackboard.demo.programs import find
from blackboard.errors import SettingsError

FILE = "customers.toml"
GRUMBLE = "As I told your colleague: "


class Utterance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words, and the facts that they tell beside the one that was asked for."""

    says: str
    tells: tuple[str, ...] = ()


class Visit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation with one department, as it begins."""

    department: str
    says: str
    tells: tuple[str, ...] = ()

    @property
    def opening(self) -> Utterance:
        """The first words."""
        return Utterance(self.says, self.tells)


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One customer: who, which visits, and by fact the wordings of the answer."""

    user: str
    name: str
    visit: tuple[Visit, ...]
    answers: dict[str, tuple[Utterance, ...]]


class _Scripts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    customer: tuple[Script, ...]


def load(file: Path | None = None) -> tuple[Script, ...]:
    """Read the customers.

    Args:
        file: Where they are; None means those that come with the desk.

    Raises:
        SettingsError: The file cannot be read, or does not say what it should.
    """
    path = file or find("support", "billing.py") / FILE
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_Scripts).customer
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"cannot read the customers in {str(path)!r}: {error}") from error


@dataclass(slots=True)
class Customer:
    """A customer of one run of the demo.

    Attributes:
        script: What they say.
        told: Facts that they told so far, to whomever.
    """

    script: Script
    told: set[str] = field(default_factory=set[str])
    _used: dict[str, int] = field(default_factory=dict[str, int])

    def says(self, utterance: Utterance, asked: str | None = None) -> tuple[str, frozenset[str]]:
        """Say something; returns the words and the facts that they tell."""
        tells = frozenset(utterance.tells)
        if asked is not None:
            tells |= {asked}
        again = asked in self.told
        self.told |= tells
        return (GRUMBLE if again else "") + utterance.says, tells

    def answers(self, asked: str) -> tuple[str, frozenset[str]]:
        """Answer a question, in other words than the last time.

        Raises:
            SettingsError: The script has no answer to it.
        """
        wordings = self.script.answers.get(asked)
        if not wordings:
            raise SettingsError(f"{self.script.name} has no answer about {asked!r} in {FILE}")
        number = self._used.get(asked, 0)
        self._used[asked] = number + 1
        return self.says(wordings[min(number, len(wordings) - 1)], asked)
