"""The client library's connection, made to survive what others send.

Its reading ends for good, without a word, at a message whose header block has a status line that is
no text, or none at all (tried with the byte FF). The broker passes such blocks on as they come, so
whoever may publish one subject that a service listens to could stop that service.
"""

from nats.aio.client import Client

MALFORMED = "Nats-Malformed"
"""Stands for a header block that cannot be read, or of which nothing is left when it was."""


class Headers(dict[str, str]):
    """Headers that know the bytes which they were read from."""

    block = b""


class Reader(Client):
    """A client whose reading no message can end.

    Attributes:
        keeps_blocks: Headers are read into `Headers`, for whoever has to copy them byte for byte.
    """

    keeps_blocks = False

    @property
    def cluster(self) -> str:
        """The name of the cluster that its server is a member of; empty for a server alone."""
        return str(self._server_info.get("cluster", ""))

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        if not headers:
            return None
        found = await self._read_headers(headers)
        if not self.keeps_blocks:
            return found
        kept = Headers(found)
        kept.block = bytes(headers)
        return kept

    async def _read_headers(self, headers: bytes) -> dict[str, str]:
        try:
            found = await super()._process_headers(headers)  # pyright: ignore[reportUnknownMemberType]
        except (IndexError, ValueError):
            return {MALFORMED: ""}
        return found or {MALFORMED: ""}
