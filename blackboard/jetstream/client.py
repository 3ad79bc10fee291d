"""The client library's connection, made to survive what others send.

Its reading ends for good, without a word, at a message whose header block has a status line that is
no text, or none at all (tried with the byte FF). The broker passes such blocks on as they come, so
whoever may publish one subject that a service listens to could stop that service.
"""

from nats.aio.client import Client

MALFORMED = "Nats-Malformed"
"""Stands for a header block that cannot be read, or of which nothing is left when it was."""


class Reader(Client):
    """A client whose reading no message can end."""

    @property
    def cluster(self) -> str:
        """The name of the cluster that its server is a member of; empty for a server alone."""
        return str(self._server_info.get("cluster", ""))

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        if not headers:
            return None
        try:
            found = await super()._process_headers(headers)  # pyright: ignore[reportUnknownMemberType]
        except (IndexError, ValueError):
            return {MALFORMED: ""}
        return found or {MALFORMED: ""}
