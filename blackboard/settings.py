"""The settings of a process, and the only reader of its environment.

They are read once, at the edge (`Blackboard.open`, the command line, a service), and passed down as
arguments, so that a test or an embedding program never has to change the environment.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from blackboard.errors import SettingsError

MIB = 1024 * 1024
OTLP_HTTP = "http/protobuf"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a board may hold; applied when the board is made.

    `max_bytes` values are reserved by the broker, so their sum over all boards has to fit into its
    file store.
    """

    memory_bytes: int = 2048 * MIB
    blob_bytes: int = 2048 * MIB
    audit_bytes: int = 256 * MIB
    spans_bytes: int = 128 * MIB
    dead_bytes: int = 64 * MIB
    reads_bytes: int = 256 * MIB
    """Of the broker's own record of reads; only boards with credentials have it."""
    ledger_bytes: int = 512 * MIB
    """Of the chained audit; only boards with credentials have it."""
    history: int = 64
    """Revisions kept of a memory."""
    consumers: int = 100_000
    """Consumers a stream may have; the broker's default is 1,000, which a pool of agents passes."""
    replicas: int = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the board is, how to get in, and which model to ask."""

    url: str | None = None
    """Addresses of the broker, separated by commas; None joins the local stack of `data_dir`."""
    token_file: Path | None = None
    credentials: Path | None = None
    """A credential of one agent or service, where the broker has credentials; or a directory with
    those of several, of which each takes its own."""
    board_key: Path | None = None
    """The key that the steward signs ledgers with; None keeps it in `data_dir`."""
    broker_log: Path | None = None
    """The broker's log, where the steward can read it: it alone says what the broker refused."""
    board: str = "main"
    data_dir: Path = Path(".blackboard")
    model_url: str | None = None
    """Base URL of an OpenAI-compatible endpoint; None means extractive summaries."""
    model_key: str | None = None
    model_name: str = "gpt-4o-mini"
    embedding_model: str | None = None
    """Of the model endpoint; None leaves recall with what runs on this machine."""
    qdrant_url: str | None = None
    """Of a Qdrant server that holds the indexes; None keeps them in `data_dir`."""
    qdrant_key: str | None = None
    consolidate_file: Path | None = None
    """Policies of the consolidator; None condenses by its defaults."""
    retention_file: Path | None = None
    """Retention policy that the steward puts on every board; None leaves each its own."""
    otlp_endpoint: str | None = None
    """Full URL that spans are exported to; None exports nothing."""
    otlp_protocol: str = OTLP_HTTP
    monitors: tuple[str, ...] = ()
    """Addresses of all servers' monitoring, by which the steward sees what replicas still hold."""
    stores: tuple[Path, ...] = ()
    """JetStream's directories of the servers that are on this machine, for the steward to see there
    what is left of what was forgotten."""
    trace_ratio: float = 1.0
    """Share of traces that are recorded, 0 to 1."""
    machine: str = ""

    def token(self) -> str | None:
        """Read the broker's token; None when no token file is set.

        Raises:
            SettingsError: The file cannot be read.
        """
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise SettingsError(
                f"cannot read the token file {str(self.token_file)!r} ({error.strerror}); "
                "set BLACKBOARD_TOKEN_FILE to a file this user may read"
            ) from error

    def passed_on(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment of a child process that shall find the same board, by the same way in.

        Args:
            environ: What else it inherits; what is set there of these settings does not count.
        """
        here = {
            "BLACKBOARD_BOARD": self.board,
            "BLACKBOARD_DATA": str(self.data_dir),
            "BLACKBOARD_URL": self.url,
            "BLACKBOARD_TOKEN_FILE": self.token_file and str(self.token_file),
            "BLACKBOARD_CREDENTIALS": self.credentials and str(self.credentials),
        }
        others = {name: value for name, value in environ.items() if name not in here}
        return others | {name: value for name, value in here.items() if value is not None}


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment.

    Args:
        environ: Variables to read; None reads those of the process.

    Raises:
        SettingsError: A variable has a value that cannot be used; the text names it.
    """
    env = os.environ if environ is None else environ
    token_file = env.get("BLACKBOARD_TOKEN_FILE")
    credentials = env.get("BLACKBOARD_CREDENTIALS")
    board_key = env.get("BLACKBOARD_BOARD_KEY")
    broker_log = env.get("BLACKBOARD_BROKER_LOG")
    policies = env.get("BLACKBOARD_CONSOLIDATE")
    retention = env.get("BLACKBOARD_RETENTION")
    otlp_protocol = (
        env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or env.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or OTLP_HTTP
    )
    return Settings(
        url=env.get("BLACKBOARD_URL") or None,
        token_file=Path(token_file) if token_file else None,
        credentials=Path(credentials) if credentials else None,
        board_key=Path(board_key) if board_key else None,
        broker_log=Path(broker_log) if broker_log else None,
        board=env.get("BLACKBOARD_BOARD") or "main",
        data_dir=Path(env.get("BLACKBOARD_DATA") or ".blackboard"),
        model_url=env.get("OPENAI_BASE_URL") or None,
        model_key=env.get("OPENAI_API_KEY") or None,
        model_name=env.get("BLACKBOARD_MODEL") or "gpt-4o-mini",
        embedding_model=env.get("BLACKBOARD_EMBEDDING_MODEL") or None,
        qdrant_url=env.get("QDRANT_URL") or None,
        qdrant_key=env.get("QDRANT_API_KEY") or None,
        consolidate_file=Path(policies) if policies else None,
        retention_file=Path(retention) if retention else None,
        otlp_endpoint=_otlp_endpoint(env, otlp_protocol),
        otlp_protocol=otlp_protocol,
        monitors=tuple(
            one.strip() for one in env.get("BLACKBOARD_MONITOR", "").split(",") if one.strip()
        ),
        stores=tuple(
            Path(one.strip()) for one in env.get("BLACKBOARD_STORE", "").split(",") if one.strip()
        ),
        trace_ratio=_ratio(env.get("BLACKBOARD_TRACE_RATIO", "1")),
        machine=socket.gethostname(),
    )


def _otlp_endpoint(env: Mapping[str, str], protocol: str) -> str | None:
    """The endpoint of traces as it is; the one of all signals is a base, over HTTP."""
    own = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    base = env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if own or not base:
        return own or None
    return f"{base.rstrip('/')}/v1/traces" if protocol == OTLP_HTTP else base


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise SettingsError(f"BLACKBOARD_TRACE_RATIO={text!r} is not a number from 0 to 1")
    return ratio
