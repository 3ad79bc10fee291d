"""How a connection begins and ends: which failure is the settings', and which the broker's."""

import asyncio
import logging
import re
from typing import Any, Protocol

import anyio
import nats.errors
from nats.aio.client import Client

from blackboard.access.identity import Identity
from blackboard.errors import SettingsError, UnavailableError

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
DENIED = re.compile(r"permissions violation for (?:publish|subscription) to \"([^\"]*)\"")
"""How the client words what the broker says of a subject, in lower case."""


class Owner(Protocol):
    """Who has a connection, and is told what becomes of it."""

    def lost(self) -> None:
        """The connection broke; the client tries to get it back."""
        ...

    def reconnected(self) -> None:
        """It is back."""
        ...

    def denied(self, subject: str) -> None:
        """The client may not publish to this subject, given in lower case."""
        ...


async def connect(
    client: Client,
    url: str,
    *,
    shown: str,
    token: str | None,
    identity: Identity | None,
    name: str,
    owner: Owner,
) -> None:
    """Connect, or say why not; afterwards the client reconnects by itself, for ever.

    Args:
        client: A fresh one.
        url: One address or several, separated by commas.
        shown: The same without the secret, for errors.
        token: The broker's token, if it wants one.
        identity: Whose credential this is, if the broker wants one.
        name: Shown in the broker's monitoring.
        owner: Told when the connection breaks and comes back, and what it may not do.

    Raises:
        UnavailableError: No address answered within 5 s.
        SettingsError: The broker refused the token or credential, or the address is no address.
    """
    attempt = _Attempt(owner)
    try:
        with anyio.move_on_after(CONNECT_S):
            await client.connect(
                servers=[part.strip() for part in url.split(",")],
                **_proof(token, identity),
                **attempt.callbacks(),
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # pyright: ignore[reportArgumentType] - seconds, any number
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=16 * 1024 * 1024,
            )
            return
    except (nats.errors.Error, ValueError, OSError) as error:
        if not _is_refusal(error):
            raise SettingsError(f"cannot use the broker's address {shown!r}: {error}") from error
        await _give_up(client)
        raise SettingsError(_refusal(shown, identity)) from error
    except anyio.get_cancelled_exc_class():
        await _give_up(client)
        raise
    finally:
        attempt.over = True
    await _give_up(client)
    reason = f" ({attempt.failures[-1]})" if attempt.failures else ""
    raise UnavailableError(
        f"no broker answers at {shown}{reason}; start one with `blackboard up`, "
        "or set BLACKBOARD_URL"
    )


async def _give_up(client: Client) -> None:
    with anyio.move_on_after(1, shield=True):
        await close(client)


class _Attempt:
    """What the client says while it connects, and afterwards."""

    def __init__(self, owner: Owner) -> None:
        self.over = False
        self.failures: list[Exception] = []
        self._owner = owner

    def callbacks(self) -> dict[str, Any]:
        return {
            "error_cb": self._failed,
            "disconnected_cb": self._lost,
            "reconnected_cb": self._reconnected,
        }

    async def _failed(self, error: Exception) -> None:
        denied = DENIED.search(str(error))
        if denied is not None:
            self._owner.denied(denied.group(1))
            return
        logger.debug("broker.error", extra={"error": str(error)})
        if self.over:
            return
        self.failures.append(error)
        if _is_refusal(error):
            # Else the client would try for ever; and to cancel it here would leak its socket.
            raise error

    async def _lost(self) -> None:
        self._owner.lost()

    async def _reconnected(self) -> None:
        self._owner.reconnected()


def _proof(token: str | None, identity: Identity | None) -> dict[str, Any]:
    if identity is None:
        return {"token": token}
    return {"nkeys_seed_str": identity.seed, "inbox_prefix": identity.inbox}


def _refusal(shown: str, identity: Identity | None) -> str:
    if identity is not None:
        return (
            f"the broker at {shown} refused the credential of {identity.agent!r}: it was revoked, "
            "replaced, or is another broker's; ask for a new one (`blackboard access add`)"
        )
    return (
        f"the broker at {shown} refused the token; set BLACKBOARD_TOKEN_FILE to the "
        "file that holds the right one, or BLACKBOARD_CREDENTIALS to your own credential"
    )


def _is_refusal(error: Exception) -> bool:
    return "authorization" in str(error).lower()


async def close(client: Client) -> None:
    """Close, whatever state the connection is in; afterwards nothing of it reconnects."""
    while True:
        try:
            await client.close()
        except (nats.errors.Error, OSError):
            # The broker went first, with something of ours still on the way to it.
            logger.debug("connection.close", exc_info=True)
        # A cancellation that meets the end of an attempt to connect is lost (asyncio.wait_for up
        # to Python 3.11): once in fifty closes of a lost connection the client went on, for ever.
        reconnecting: asyncio.Task[None] | None = vars(client).get("_reconnection_task")
        while reconnecting is not None and not reconnecting.done():
            reconnecting.cancel()
            await asyncio.wait([reconnecting], timeout=0.1)
        if client.is_closed:
            return
