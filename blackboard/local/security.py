"""The access policy of a local stack: what its broker is told, and how another is put in force.

A data directory with an `access.toml` has a broker with credentials, whoever starts it. The policy
is compiled by whoever changes it and again by the supervisor, from the same files to the same text,
and the supervisor writes the digest of that text into the state file once the broker has it.
"""

import hashlib
import logging
import os
import signal
from pathlib import Path
from typing import NamedTuple

import anyio

from blackboard.access.broker import configuration
from blackboard.access.identity import ACCOUNT
from blackboard.access.keys import Keyring, Keys
from blackboard.access.policy import Policy
from blackboard.errors import SettingsError, UnavailableError
from blackboard.files import write_private
from blackboard.local.broker import PROGRAM
from blackboard.local.child import take_over
from blackboard.local.directory import Directory
from blackboard.local.locks import is_held

LOG = logging.getLogger(__name__)
TAKE_LIMIT_S = 15.0
"""How long a broker may take to have another policy; a thousand agents are read in under 1 s."""
POLL_S = 0.02
STORE = Path("jetstream")
OPEN_ACCOUNT = "$G"
"""Where a broker without accounts keeps what it stores."""


class Security(NamedTuple):
    """An access policy, compiled.

    Attributes:
        policy: The policy.
        keys: The public keys of its agents.
        accounts: What the broker is told.
    """

    policy: Policy
    keys: Keys
    accounts: str

    @property
    def digest(self) -> str:
        """Of what the broker is told: changes with the rights and with the keys."""
        return hashlib.sha256(self.accounts.encode()).hexdigest()


def read_security(directory: Directory) -> Security | None:
    """Read the access policy of a data directory, and make the credentials that are missing.

    Returns:
        None when it has no policy, so that its broker has a token.

    Raises:
        SettingsError: The policy is broken, or it is gone while the credentials are there: a broker
            without it would let everybody in.
    """
    if not directory.policy_file.exists():
        if directory.credentials.exists():
            raise SettingsError(
                f"{str(directory.path)!r} has credentials, and its access policy is gone; put "
                f"{directory.policy_file.name!r} back"
            )
        return None
    policy = Policy.load(directory.policy_file)
    keys = Keyring(directory.credentials).ensure(policy.agents())
    return Security(policy, keys, configuration(policy, keys))


def move_store(directory: Directory) -> None:
    """Give what a broker without credentials stored to the account that has them now.

    Boards keep everything; who had the token is shut out. The broker that stored it does not run
    any more, or is ended here.

    Raises:
        UnavailableError: It does not end.
    """
    store = directory.path / STORE
    ours, theirs = store / ACCOUNT, store / OPEN_ACCOUNT
    if theirs.exists() and not ours.exists():
        take_over(directory.lock(PROGRAM)).release()
        theirs.rename(ours)
        LOG.info("what was stored without credentials now belongs to account %s", ACCOUNT)


def write_policy(directory: Directory, text: str) -> None:
    """Put a policy into a data directory; the one before is kept beside it.

    Raises:
        SettingsError: The directory cannot be written.
    """
    path = directory.policy_file
    try:
        if path.exists() and path.read_text("utf-8") != text:
            write_private(path.with_name(f"{path.name}.before"), path.read_bytes())
        write_private(path, text.encode())
    except OSError as error:
        raise SettingsError(f"cannot write {str(path)!r} ({error.strerror})") from error


async def take_policy(directory: Directory) -> Security:
    """Have the running stack take the policy and the keys that are in its data directory now.

    Raises:
        SettingsError: The policy is broken, or the stack runs without credentials.
        UnavailableError: The broker does not take it in time; the text names the log to read.
    """
    security = read_security(directory)
    state = directory.read_state() if is_held(directory.ready_lock) else None
    if security is None or state is None or state.access is None:
        raise SettingsError(
            f"no stack with credentials runs on {str(directory.path)!r}; end the one that runs, "
            "if any, and start it with: blackboard up --access FILE"
        )
    if state.access == security.digest:
        return security
    os.kill(state.pids["supervisor"], signal.SIGHUP)
    with anyio.move_on_after(TAKE_LIMIT_S):
        while (now := directory.read_state()) is None or now.access != security.digest:  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(POLL_S)
        return security
    log = directory.log("supervisor")
    raise UnavailableError(f"the broker has not taken the policy; {str(log)!r} says why")
