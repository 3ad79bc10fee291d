"""Keys: one nkey (Ed25519) for each agent of a board, and the files that hold them.

    <directory>/<board>/<agent>.nk      an agent's credential: whoever has it is that agent
    <directory>/<service>.nk            those of the command line, the services and the probe, and
                                        `system`, of the broker's own account

The broker is given the public half only, and a client proves the other by signing, so neither the
broker's configuration nor the network ever carries a secret. A file that exists is never written
over, unless its agent's key is rotated: every copy of it that was handed out would be worthless.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nkeys  # pyright: ignore[reportMissingTypeStubs]

from blackboard.access.identity import OWNER_LINE, SERVICES, SYSTEM, Identity
from blackboard.access.rights import ANY, PROBE
from blackboard.errors import SettingsError
from blackboard.files import create_private, write_private

SUFFIX = ".nk"
OTHERS = (*sorted(SERVICES), PROBE, SYSTEM)
"""Who has a credential beside the agents; that of `system` looks after the broker itself."""
SEED_BYTES = 32
_HEAD = "-----BEGIN USER NKEY SEED-----"
_TAIL = "------END USER NKEY SEED------"


@dataclass(frozen=True, slots=True)
class Keys:
    """The public keys that the broker is told of."""

    services: Mapping[str, str]
    agents: Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Keyring:
    """The directory of the credential files."""

    directory: Path

    def path(self, agent: str, board: str | None = None) -> Path:
        """Where a credential lies: of an agent on a board, or without one of a service."""
        folder = self.directory if board is None else self.directory / board
        return folder / f"{agent}{SUFFIX}"

    def ensure(self, agents: Iterable[tuple[str, str]]) -> Keys:
        """Make the credentials that are missing, and give the public keys of all.

        Args:
            agents: Board and name of each.

        Raises:
            SettingsError: A file cannot be made or read, or holds no key.
        """
        try:
            services = {name: self._ensure(self.path(name), name, None) for name in OTHERS}
            keys = {
                (board, agent): self._ensure(self.path(agent, board), agent, board)
                for board, agent in agents
            }
        except OSError as error:
            raise _unusable(self.directory, error) from error
        return Keys(services, keys)

    def rotate(self, agent: str, board: str | None) -> str:
        """Make a new key in place of an old one, and give its public half.

        Once the broker knows it, the old one is worthless and who uses it is cut off.

        Raises:
            SettingsError: The file cannot be written.
        """
        content, key = _fresh(agent, board)
        path = self.path(agent, board)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, content)
        except OSError as error:
            raise _unusable(self.directory, error) from error
        return key

    def remove(self, agent: str, board: str) -> None:
        """Remove an agent's credential, so that one who comes back gets a new key."""
        self.path(agent, board).unlink(missing_ok=True)

    def _ensure(self, path: Path, agent: str, board: str | None) -> str:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content, key = _fresh(agent, board)
            if create_private(path, content):
                return key
        identity = Identity.read(path, board or ANY, agent)
        try:
            return _public(identity.seed.encode())
        except (nkeys.NkeysError, ValueError) as error:
            raise SettingsError(
                f"{str(path)!r} is damaged: its seed is none; make a new one with "
                f"`blackboard access rotate {agent}`"
            ) from error


def _fresh(agent: str, board: str | None) -> tuple[bytes, str]:
    """A new key: what its file holds, and its public half."""
    seed = _encode(secrets.token_bytes(SEED_BYTES))
    where = "" if board is None else f" on board {board}"
    lines = [OWNER_LINE.format(agent=agent, where=where), _HEAD, seed.decode(), _TAIL, ""]
    return "\n".join(lines).encode(), _public(seed)


def _encode(raw: bytes) -> bytes:
    return nkeys.encode_seed(raw, nkeys.PREFIX_BYTE_USER)  # pyright: ignore[reportUnknownMemberType]


def _public(seed: bytes) -> str:
    """The public key of a seed.

    Raises:
        ValueError: It is no user's seed, or was mistyped.
        nkeys.NkeysError: It is no seed.
    """
    _, raw = nkeys.decode_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    # The library does not look at the check sum.
    if len(raw) != SEED_BYTES or _encode(bytes(raw)) != seed:
        raise ValueError("not a user's seed")
    pair = nkeys.from_seed(bytearray(seed))  # pyright: ignore[reportUnknownMemberType]
    return cast("bytes", pair.public_key).decode()


def _unusable(directory: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"cannot keep credentials in {str(directory)!r} ({error.strerror}); "
        "name a directory that this user may write to"
    )
