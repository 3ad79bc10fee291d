"""Which board a command means: the options every command has, and how it is opened."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Group, Parameter

from blackboard.access.identity import owner_of
from blackboard.board import Blackboard
from blackboard.errors import SettingsError
from blackboard.session import open_session
from blackboard.settings import Limits, Settings, load

AGENT = "cli"
"""The name on what is written or read from the command line."""

_BOARD = Group("Board", sort_key=10)


@Parameter(name="*", group=_BOARD)
@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the board is, and how results are printed."""

    url: Annotated[str | None, Parameter(help="Broker's address. [$BLACKBOARD_URL]")] = None
    board: Annotated[str | None, Parameter(help="Board. [$BLACKBOARD_BOARD, else main]")] = None
    data: Annotated[
        Path | None,
        Parameter(help="Data directory of a local stack. [$BLACKBOARD_DATA, else .blackboard]"),
    ] = None
    as_json: Annotated[
        bool, Parameter(name="--json", help="Print JSON, one value or one a line.")
    ] = False

    def settings(self) -> Settings:
        """The settings of the environment, with what the options replace.

        Raises:
            SettingsError: Both a broker and a data directory were named.
        """
        if self.url is not None and self.data is not None:
            raise SettingsError("--url and --data name two different brokers; give one of them")
        settings = load()
        if self.url is not None:
            settings = msgspec.structs.replace(settings, url=self.url)
        if self.data is not None:
            settings = msgspec.structs.replace(settings, url=None, data_dir=self.data)
        if self.board is not None:
            settings = msgspec.structs.replace(settings, board=self.board)
        return settings


@Parameter(name="*", group=_BOARD)
@dataclass(frozen=True, kw_only=True)
class WritingPlace(Place):
    """The same, for a command that writes."""

    agent: Annotated[str, Parameter(help="The name on what is written.")] = AGENT


HERE = Place()
WRITE_HERE = WritingPlace()


@asynccontextmanager
async def opened(
    place: Place, *, agent: str = AGENT, create: bool = False
) -> AsyncGenerator[Blackboard]:
    """Open the board that the options name.

    Only commands that write make a board, or a data directory, that is not there: a typing error in
    the name would otherwise show an empty board.

    Raises:
        SettingsError: The settings cannot be used, or there is no local stack here to read from.
        NotFoundError: There is no such board.
        UnavailableError: The broker does not answer.
    """
    settings = place.settings()
    if not create:
        check_readable(settings)
    owner = None if settings.credentials is None else owner_of(settings.credentials)
    if owner is not None and agent == AGENT:
        # With an agent's credential a command is that agent, on its board.
        agent = owner[0]
        board = place.board or owner[1] or settings.board
        settings = msgspec.structs.replace(settings, board=board)
    async with open_session(
        settings, settings.board, agent, limits=Limits(), create=create
    ) as session:
        yield Blackboard(session, session.desk(settings.board, agent))


def check_readable(settings: Settings) -> None:
    """Refuse to make a data directory only to find it empty.

    Raises:
        SettingsError: There is no local stack to read from.
    """
    if settings.url is None and not settings.data_dir.is_dir():
        raise SettingsError(
            f"no local stack in {str(settings.data_dir)!r}; start one with `blackboard up`, "
            "or say where the board is with --data or --url"
        )
