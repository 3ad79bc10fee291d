"""`blackboard up`: hold the local stack."""

import signal
from shlex import quote
from typing import Annotated

import anyio
import msgspec
from cyclopts import Parameter

from blackboard.background import background
from blackboard.cli.output import fields, say, say_json, warn
from blackboard.cli.place import HERE, Place
from blackboard.errors import SettingsError
from blackboard.local import DEFAULT_PORT, Endpoint, join, read_endpoint
from blackboard.local.directory import Directory
from blackboard.session import open_session
from blackboard.settings import Limits, Settings

LOOK_S = 1.0


async def up(
    *,
    port: Annotated[int, Parameter(help="Where it listens; another one when it is taken.")] = (
        DEFAULT_PORT
    ),
    place: Place = HERE,
) -> None:
    """Hold the local stack until Ctrl-C.

    It is started when it does not run, and joined when it does. It ends when
    nobody holds or uses it any more.
    """
    if place.url is not None:
        raise SettingsError("`up` runs a broker of its own; leave --url out, or give --data")
    settings = place.settings()
    if settings.url is not None:
        warn("BLACKBOARD_URL is set, so other commands go there and not to this stack")
    settings = msgspec.structs.replace(settings, url=None)
    async with background() as group:
        group.start_soon(_end_on_signal, group.cancel_scope)
        while True:
            await _hold(settings, port, place)
            warn("the local stack ended; starting it again")


async def _hold(settings: Settings, port: int, place: Place) -> None:
    """Use the stack until it is gone."""
    async with join(settings.data_dir, port=port) as endpoint:
        async with open_session(settings, settings.board, "cli", limits=Limits(), create=True):
            pass  # so that the board is there for those who only read
        _introduce(endpoint, settings.board, place)
        while read_endpoint(settings.data_dir) is not None:  # noqa: ASYNC110 - nobody tells us
            await anyio.sleep(LOOK_S)


def _introduce(endpoint: Endpoint, board: str, place: Place) -> None:
    token_file = Directory.at(endpoint.data_dir).token_file
    if place.as_json:
        facts = {
            "url": endpoint.url,
            "board": board,
            "data": str(endpoint.data_dir),
            "token_file": str(token_file),
            "monitor": endpoint.monitor,
            "started": endpoint.started,
        }
        say_json(facts, line=True)
        return
    say("started a local stack" if endpoint.started else "joined the running local stack")
    fields(
        {
            "broker": endpoint.url,
            "board": board,
            "data": endpoint.data_dir,
            "token": f"in {token_file}, which only you may read",
            "monitor": endpoint.monitor,
        }
    )
    say()
    say("Programs on this machine reach it with Blackboard.open() under either of these:")
    say(f"  export BLACKBOARD_DATA={quote(str(endpoint.data_dir))}")
    say(f"  export BLACKBOARD_URL={endpoint.url} BLACKBOARD_TOKEN_FILE={quote(str(token_file))}")
    say("Names are taken on trust here: whoever has the token may write as any agent.")
    say("Ctrl-C ends it, once nobody else uses it.")


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return
