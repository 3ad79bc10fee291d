"""The access policy that a command works on: of a local stack, or the files of a broker's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from blackboard.access.broker import configuration
from blackboard.access.identity import Identity
from blackboard.access.keys import Keyring
from blackboard.access.policy import Policy
from blackboard.enrolment import Enrolled, enrol
from blackboard.errors import SettingsError
from blackboard.files import write_private
from blackboard.jetstream import Connection
from blackboard.local import Endpoint, join, read_endpoint
from blackboard.local.directory import Directory
from blackboard.local.security import take_policy, write_policy
from blackboard.settings import Settings
from blackboard.steward.consumers import Consumers

_OWN = Group(
    "A broker of your own",
    help="All three, for a policy that is not the local stack's.",
    sort_key=9,
)


@Parameter(name="*", group=_OWN)
@dataclass(frozen=True, kw_only=True)
class OwnBroker:
    """The files of a broker that is not a local stack's."""

    policy: Annotated[Path | None, Parameter(help="Its access policy.")] = None
    config: Annotated[
        Path | None, Parameter(help="What its configuration includes; written here.")
    ] = None
    credentials: Annotated[Path | None, Parameter(help="Folder of the credentials.")] = None


LOCAL = OwnBroker()


@dataclass(frozen=True, slots=True)
class Store:
    """Where a policy and its credentials lie.

    Attributes:
        policy: The policy file.
        keyring: The credentials.
        config: What a broker of one's own includes; None for a local stack.
    """

    policy: Path
    keyring: Keyring
    config: Path | None

    def read(self) -> str:
        """The policy as it is written.

        Raises:
            SettingsError: There is none, or it cannot be read.
        """
        if self.config is None and not self.policy.exists():
            raise SettingsError(
                f"there is no access policy in {str(self.policy.parent)!r}; "
                "start the local stack with one: blackboard up --access FILE"
            )
        return read_policy(self.policy)

    async def put_in_force(self, text: str) -> Enrolled | None:
        """Write a policy that was found right, and have the local stack take it.

        Returns:
            What changed; None when the broker is one's own, which has to be told.

        Raises:
            SettingsError: A file cannot be written, or the local stack has no credentials.
            UnavailableError: The local stack does not take it.
        """
        if self.config is None:
            directory = Directory(self.policy.parent)
            check_secured(directory)
            write_policy(directory, text)
            async with join(directory.path) as endpoint:
                return await enrol_local(endpoint)
        policy = Policy.parse(text, str(self.policy))
        compiled = configuration(policy, self.keyring.ensure(policy.agents()))
        try:
            write_private(self.config, compiled.encode())
            if self.policy.read_text("utf-8") != text:
                write_private(self.policy, text.encode())
        except OSError as error:
            raise SettingsError(
                f"cannot write {str(error.filename)!r} ({error.strerror})"
            ) from error
        return None


def read_policy(path: Path) -> str:
    """The text of a policy file that was found right.

    Raises:
        SettingsError: It cannot be read, or something in it is wrong.
    """
    Policy.load(path)
    return path.read_text("utf-8")


def find_store(settings: Settings, own: OwnBroker) -> Store:
    """The store that the options name: all three of a broker's own, or a data directory.

    Raises:
        SettingsError: Only some of the three are given.
    """
    given = {name: getattr(own, name) for name in ("policy", "config", "credentials")}
    missing = [f"--{name}" for name, path in given.items() if path is None]
    if own.policy is not None and own.config is not None and own.credentials is not None:
        return Store(own.policy, Keyring(own.credentials), own.config)
    if len(missing) < len(given):
        raise SettingsError(f"for a broker of your own, give {' and '.join(missing)} as well")
    directory = Directory.at(settings.data_dir)
    return Store(directory.policy_file, Keyring(directory.credentials), None)


def check_secured(directory: Directory) -> None:
    """Refuse to give a policy to a stack that runs without.

    Raises:
        SettingsError: Its broker takes a token, until it is started again.
    """
    running = read_endpoint(directory.path)
    if running is not None and running.credentials is None:
        raise SettingsError(
            f"the local stack of {str(directory.path)!r} runs without credentials; end it, and "
            "start it with: blackboard up --access FILE"
        )


async def enrol_local(endpoint: Endpoint) -> Enrolled:
    """Have a running local stack take the policy in its data directory, services included.

    Raises:
        SettingsError: It has no credentials, or the policy is broken.
        UnavailableError: It does not take it.
    """
    directory = Directory.at(endpoint.data_dir)
    security = await take_policy(directory)
    path = Keyring(directory.credentials).path("cli")
    return await enrol_at(endpoint.url, path, security.policy, Keyring(directory.credentials))


async def enrol_at(url: str, credential: Path, policy: Policy, keyring: Keyring) -> Enrolled:
    """Write the rights of a policy to a broker that has it in force; cut consumers down to them.

    Raises:
        SettingsError: The credential is none of the broker's.
        UnavailableError: The broker does not answer.
    """
    identity = Identity.read(credential, "*", "cli")
    async with Connection.open(url, identity=identity, name="cli") as connection:
        enrolled = await enrol(connection, policy, keyring.ensure(policy.agents()))
        # The steward does it too; but while it is away, what an agent lost would be sent on to it.
        for board in {board for board, _ in (*enrolled.granted, *enrolled.revoked)}:
            there = {
                name: one.rights for (its, name), one in policy.members.items() if its == board
            }
            await Consumers(connection, board).enforce(there)
        return enrolled
