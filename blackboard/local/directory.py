"""What lies where in a data directory, and how it is written: whole files, for the owner only."""

import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from blackboard.errors import SettingsError
from blackboard.files import write_private


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The running stack, as `stack.json` says; true only while `ready.lock` is held."""

    url: str
    monitor: str
    name: str
    """The broker's name in its greeting, new for every supervisor: proves that it is ours."""
    port: int
    pids: dict[str, int]
    versions: dict[str, str]
    access: str | None = None
    """Digest of what the broker was told of the access policy; None when it has no credentials."""


@dataclass(frozen=True, slots=True)
class Directory:
    """The paths of a data directory.

    Args:
        path: Absolute, so that it means the same in a process with another working directory.
    """

    path: Path

    @classmethod
    def at(cls, path: Path) -> "Directory":
        """Take a path as the user gave it."""
        return cls(path.absolute())

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor for its whole life."""
        return self.lock("supervisor")

    @property
    def ready_lock(self) -> Path:
        """Held by the supervisor while the state file is true."""
        return self.lock("ready")

    @property
    def users_lock(self) -> Path:
        """Shared by the users."""
        return self.lock("users")

    @property
    def token_file(self) -> Path:
        """The broker's token; kept over restarts, so that clients can come back."""
        return self.path / "token"

    @property
    def policy_file(self) -> Path:
        """The access policy; where there is one, the broker has credentials instead of a token."""
        return self.path / "access.toml"

    @property
    def credentials(self) -> Path:
        """The credentials of the agents and the services."""
        return self.path / "credentials"

    @property
    def config_file(self) -> Path:
        """The broker's configuration; holds the token, or the public keys of the agents."""
        return self.path / "nats-server.conf"

    @property
    def state_file(self) -> Path:
        """The running stack, without secrets."""
        return self.path / "stack.json"

    def lock(self, name: str) -> Path:
        """Lock file of that name."""
        return self.path / "locks" / f"{name}.lock"

    def log(self, name: str) -> Path:
        """Log of the supervisor or of a child."""
        return self.path / f"{name}.log"

    def prepare(self) -> None:
        """Make the directory when it is missing (mode 0700); one that exists keeps its mode.

        Raises:
            SettingsError: It cannot be made or used, or any user of the machine may write to it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = self.path.stat().st_mode
            (self.path / "locks").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"cannot use {str(self.path)!r} as data directory ({error.strerror}); "
                "set BLACKBOARD_DATA to a directory that this user may write to"
            ) from error
        if mode & stat.S_IWOTH:
            raise SettingsError(
                f"any user may write to the data directory {str(self.path)!r}, and so replace the "
                f"token; choose another or run: chmod o-w {str(self.path)!r}"
            )

    def read_state(self) -> State | None:
        """Read the state file; None when it is absent or unreadable."""
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return None

    def write_state(self, state: State) -> None:
        """Replace the state file at once."""
        write_private(self.state_file, msgspec.json.format(msgspec.json.encode(state)))

    def remove_state(self) -> None:
        """Remove the state file when it is there."""
        self.state_file.unlink(missing_ok=True)

    def read_token(self) -> str:
        """Read the token; empty when there is none."""
        try:
            return self.token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def ensure_token(self) -> str:
        """Read the token, or make one; for the supervisor only, so that two are never made."""
        token = self.read_token()
        if token:
            self.token_file.chmod(0o600)
            return token
        token = secrets.token_urlsafe(32)
        write_private(self.token_file, token.encode() + b"\n")
        return token
