"""`blackboard up`: hold the local stack."""

import signal
from pathlib import Path
from shlex import quote
from typing import Annotated

import anyio
import msgspec
from cyclopts import Parameter

from blackboard.background import background
from blackboard.cli.output import fields, say, say_json, warn
from blackboard.cli.place import HERE, Place
from blackboard.cli.policies import check_secured, enrol_local, read_policy
from blackboard.errors import SettingsError
from blackboard.keeping import put_policy
from blackboard.local import DEFAULT_PORT, Endpoint, join, read_endpoint
from blackboard.local.directory import Directory
from blackboard.local.security import write_policy
from blackboard.retention import Retention, read_retention
from blackboard.session import open_session
from blackboard.settings import Limits, Settings

LOOK_S = 1.0


async def up(
    *,
    port: Annotated[int, Parameter(help="Where it listens; another one when it is taken.")] = (
        DEFAULT_PORT
    ),
    access: Annotated[
        Path | None,
        Parameter(help="Access policy: every agent needs a credential, and does what it may."),
    ] = None,
    retention: Annotated[
        Path | None,
        Parameter(help="Retention policy of the board. [$BLACKBOARD_RETENTION]"),
    ] = None,
    place: Place = HERE,
) -> None:
    """Hold the local stack until Ctrl-C.

    It is started when it does not run, and joined when it does. It ends when
    nobody holds or uses it any more. With --access the policy is copied into
    the data directory, which has credentials from then on; what was stored
    there before stays.
    """
    if place.url is not None:
        raise SettingsError("`up` runs a broker of its own; leave --url out, or give --data")
    settings = place.settings()
    if settings.url is not None:
        warn("BLACKBOARD_URL is set, so other commands go there and not to this stack")
    settings = msgspec.structs.replace(settings, url=None)
    path = retention or settings.retention_file
    policy = None if path is None else read_retention(path)
    if access is not None:
        _secure(settings, read_policy(access))
    async with background() as group:
        group.start_soon(_end_on_signal, group.cancel_scope)
        while True:
            await _hold(settings, port, policy, place)
            warn("the local stack ended; starting it again")


async def _hold(settings: Settings, port: int, policy: Retention | None, place: Place) -> None:
    """Use the stack until it is gone."""
    async with join(settings.data_dir, port=port) as endpoint:
        if endpoint.credentials is not None:
            await enrol_local(endpoint)
        # Also so that the board is there for those who only read.
        async with open_session(
            settings, settings.board, "cli", limits=Limits(), create=True
        ) as session:
            if policy is not None:
                await put_policy(session.connection, settings.board, policy)
        _introduce(endpoint, settings.board, place)
        while read_endpoint(settings.data_dir) is not None:  # noqa: ASYNC110 - nobody tells us
            await anyio.sleep(LOOK_S)


def _secure(settings: Settings, policy: str) -> None:
    """Give the data directory a policy, before its stack starts or for the running one to take."""
    directory = Directory.at(settings.data_dir)
    directory.prepare()
    check_secured(directory)
    write_policy(directory, policy)


def _introduce(endpoint: Endpoint, board: str, place: Place) -> None:
    token_file = Directory.at(endpoint.data_dir).token_file
    if place.as_json:
        facts = {
            "url": endpoint.url,
            "board": board,
            "data": str(endpoint.data_dir),
            "token_file": None if endpoint.credentials else str(token_file),
            "credentials": endpoint.credentials and str(endpoint.credentials),
            "monitor": endpoint.monitor,
            "started": endpoint.started,
        }
        say_json(facts, line=True)
        return
    say("started a local stack" if endpoint.started else "joined the running local stack")
    secret = {"token": f"in {token_file}, which only you may read"}
    if endpoint.credentials is not None:
        secret = {"credentials": f"in {endpoint.credentials}, which only you may read"}
    fields(
        {
            "broker": endpoint.url,
            "board": board,
            "data": endpoint.data_dir,
            **secret,
            "monitor": endpoint.monitor,
        }
    )
    say()
    if endpoint.credentials is None:
        _invite(endpoint, f"BLACKBOARD_TOKEN_FILE={quote(str(token_file))}")
        say("Names are taken on trust here: whoever has the token may write as any agent.")
    else:
        own = endpoint.credentials / board / "AGENT.nk"
        _invite(endpoint, f"BLACKBOARD_CREDENTIALS={quote(str(own))}")
        say("An agent does what the access policy grants it: blackboard access check")
    say("Ctrl-C ends it, once nobody else uses it.")


def _invite(endpoint: Endpoint, secret: str) -> None:
    say("Programs on this machine reach it with Blackboard.open() under either of these:")
    say(f"  export BLACKBOARD_DATA={quote(str(endpoint.data_dir))}")
    say(f"  export BLACKBOARD_URL={endpoint.url} {secret}")


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return
