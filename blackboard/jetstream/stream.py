"""What a stream is asked to be, and what it is."""

from typing import Any

import msgspec

NANOSECONDS = 1_000_000_000
LIVES = "blackboard-lives"
"""In a restored stream's metadata: when those were made that it goes on from, oldest first."""


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's settings; every one of them is sent, so nothing hangs on the broker's defaults.

    Rollup, schedules and purge are off for all: with rollup, whoever may write one subject can wipe
    the stream, and with schedules a writer can write as another.
    """

    name: str
    subjects: tuple[str, ...] = ()
    sources: tuple[dict[str, Any], ...] = ()
    description: str = ""
    max_bytes: int
    max_age_s: float = 0.0
    history: int = -1
    discard: str = "new"
    storage: str = "file"
    replicas: int = 1
    consumers: int = 100_000
    atomic: bool = False
    ttl: bool = False
    compressed: bool = False
    unsynced: bool = False
    """Confirm before the disk has it, which is lost only with the machine; on a server alone only:
    the broker never changes this, and refuses replicas to a stream that is so."""
    direct: bool = True
    prefix: str = ""
    """Of the subjects it listens on; what it stores has the subjects without it."""
    unanswered: bool = False
    """It confirms nothing: for what it only listens in to."""

    def config(self, *, clustered: bool = False) -> dict[str, Any]:
        """The JSON of `STREAM.CREATE`, at a server alone or at one of a cluster."""
        config: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "retention": "limits",
            "discard": self.discard,
            "storage": self.storage,
            "num_replicas": self.replicas,
            "max_consumers": self.consumers,
            "max_bytes": self.max_bytes,
            "max_age": int(self.max_age_s * NANOSECONDS),
            "max_msgs": -1,
            "max_msg_size": -1,
            "max_msgs_per_subject": self.history,
            "allow_direct": self.direct,
            "allow_msg_ttl": self.ttl,
            "allow_atomic": self.atomic,
            "allow_rollup_hdrs": False,
            "deny_purge": True,
            "deny_delete": False,
            "compression": "s2" if self.compressed else "none",
        }
        if self.unsynced and self.replicas == 1 and not clustered:
            config["persist_mode"] = "async"
        if self.subjects:
            config["subjects"] = [self.prefix + subject for subject in self.subjects]
            if self.prefix and not self.unanswered:
                config["subject_transform"] = {"src": f"{self.prefix}>", "dest": ">"}
        if self.unanswered:
            config["no_ack"] = True
        if self.sources:
            config["sources"] = list(self.sources)
        if self.max_age_s and self.max_age_s < 120:
            config["duplicate_window"] = int(self.max_age_s * NANOSECONDS)
        return config


class StreamState(msgspec.Struct, frozen=True):
    """How full a stream is."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    consumer_count: int = 0
    num_subjects: int = 0
    subjects: dict[str, int] = {}


class Replica(msgspec.Struct, frozen=True):
    """A server that holds a copy of a stream and does not lead it."""

    name: str = ""
    current: bool = False
    """Whether it holds all of it."""
    offline: bool = False
    active: int = 0
    """Nanoseconds since the leader heard of it."""

    @property
    def silent_s(self) -> float:
        """Seconds since the leader heard of it."""
        return self.active / NANOSECONDS


class Placement(msgspec.Struct, frozen=True):
    """Where a stream lies."""

    name: str = ""
    """Of the cluster; empty on a single server."""
    leader: str = ""
    replicas: list[Replica] = []
    desired: dict[str, Any] | None = None
    """Where it shall lie, as long as it does not."""


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream's settings and state as the broker has them."""

    config: dict[str, Any]
    state: StreamState
    created: str = ""
    """When; tells a stream from an earlier one of the same name."""
    cluster: Placement = Placement()

    @property
    def name(self) -> str:
        """The stream's name."""
        return str(self.config["name"])

    @property
    def lives(self) -> tuple[str, ...]:
        """When the streams were made that it goes on from by being restored, oldest first."""
        noted: dict[str, str] = self.config.get("metadata") or {}
        text = noted.get(LIVES, "")
        return tuple(text.split(",")) if text else ()

    @property
    def identity(self) -> str:
        """What tells it, with all that it was restored from, from another of its name."""
        return (*self.lives, self.created)[0]
