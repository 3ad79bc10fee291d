"""Who a connection is at a broker with credentials, and the names that this reserves there.

Everything that a stream captures lies under a prefix at which the broker refuses replies. So none
of its answers (to a direct get, a publish, a call of its API) can be made into a stored message,
which is how a forgery gets past rights that are checked by subject alone.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from blackboard.errors import SettingsError

PREFIX = "_R_.bb."
"""Before every subject that a stream captures, where the broker has credentials."""
MAX_READ_TOKENS = 15
"""Tokens of a subject that is got at the broker: of memories whose topic has up to ten.

Each length is a mapping of the account, and every message of every client is held against all of
them: 67 cost 0.1 to 0.3 ms of the server's time each, 12 cost nothing to speak of. What is deeper,
the steward gets.
"""
SERVICES = frozenset({"cli", "steward", "recall", "consolidator"})
"""Names that no agent may have: they speak to JetStream themselves, on every board."""
ACCOUNT = "BB"
"""The broker's account in which boards and agents are."""
PROBE = "probe"
"""The agent, and the label, that forgeries are tried with."""
SYSTEM = "system"
"""The name of the credential for the broker's system account."""

OWNER_LINE = "# Whoever has this is {agent}{where}."
_OWNER = re.compile(r"^# Whoever has this is (\S+?)(?: on board (\S+?))?\.$", re.MULTILINE)
_SEED = re.compile(r"^SU[A-Z2-7]{56}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Identity:
    """One credential: an agent on one board, or a service on all of them.

    Attributes:
        board: The board it is for.
        agent: The name that the broker holds it to.
        seed: Of its nkey.
    """

    board: str
    agent: str
    seed: str = field(repr=False)

    @property
    def restricted(self) -> bool:
        """Whether it may only do what the access policy grants it."""
        return self.agent not in (*SERVICES, SYSTEM)

    @property
    def inbox(self) -> str:
        """Where answers to it go; the broker lets nobody else listen there."""
        return f"_INBOX.{self.board}.{self.agent}" if self.restricted else f"_INBOX.{self.agent}"

    @classmethod
    def find(cls, path: Path, board: str, agent: str) -> "Identity":
        """Read the credential of an agent or service.

        Args:
            path: The file of it, or a directory with those of all: a service's lies at
                `<agent>.nk` there, an agent's at `<board>/<agent>.nk`.
            board: The board it is for.
            agent: The agent or service.

        Raises:
            SettingsError: There is none, or as `read` does.
        """
        if not path.is_dir():
            return cls.read(path, board, agent)
        alone = agent in SERVICES or agent in (PROBE, SYSTEM)
        file = path / (f"{agent}.nk" if alone else f"{board}/{agent}.nk")
        if not file.exists():
            raise SettingsError(
                f"{str(path)!r} has no credential for agent {agent!r} on board {board!r}; "
                f"add it: blackboard access add {agent} --board {board} --role ROLE"
            )
        return cls.read(file, board, agent)

    @classmethod
    def read(cls, path: Path, board: str, agent: str) -> "Identity":
        """Read a credential file.

        Raises:
            SettingsError: It cannot be read, holds no seed of a user's nkey, or says that it is
                somebody else's.
        """
        try:
            text = path.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise SettingsError(
                f"cannot read the credential {str(path)!r} ({reason}); "
                "set BLACKBOARD_CREDENTIALS to the file that `blackboard access add` wrote"
            ) from error
        found = _SEED.search(text)
        if found is None:
            raise SettingsError(
                f"{str(path)!r} is no credential: it holds no seed of a user's nkey (SU…)"
            )
        owner = _OWNER.search(text)
        if owner is not None and owner.groups() not in ((agent, board), (agent, None)):
            name, its_board = owner.groups()
            where = "" if its_board is None else f" on board {its_board!r}"
            raise SettingsError(
                f"{str(path)!r} is the credential of {name!r}{where}, not of {agent!r} on "
                f"{board!r}; open the board under that name, or take the other credential"
            )
        return cls(board, agent, found.group())


def owner_of(path: Path) -> tuple[str, str | None] | None:
    """Whose credential a file is, and for which board, as it says; None when it does not."""
    try:
        owner = _OWNER.search(path.read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    return None if owner is None else (owner.group(1), owner.group(2))


def beside(credentials: Path | None, service: str) -> Path | None:
    """Where the credential of a service lies, given another's, or the directory of all."""
    if credentials is None:
        return None
    directory = credentials if credentials.is_dir() else credentials.parent
    return directory / f"{service}.nk"


def inbox_of(subject: str) -> str:
    """The inbox that only the caller has whom a request's subject (`svc.…`) names."""
    _, board, _, agent = subject.split(".")
    return f"{Identity(board, agent, '').inbox}."


def rights_subject(board: str, agent: str) -> str:
    """Where it stands what an agent may do."""
    return f"access.{board}.{agent}"


def read_subject(board: str, agent: str, stream: str, subject: str) -> str:
    """Where an agent gets a single message, so that the broker knows who read it."""
    return f"{PREFIX}rd.{board}.{agent}.{stream}.{subject}"


ACCESS_STREAM = "ACCESS"
"""The stream of what everybody may do, one for all boards."""
