"""The index in this process: `qdrant-edge-py`, in a directory that one process owns.

The engine keeps no log of its own (the stream is the log), so what was applied is on disk by `flush`
only. How far that reaches is a small file beside the engine's, replaced after the engine's flush has
returned: after a crash it may say less than is there, never more, and applying again changes nothing.

The engine holds the interpreter's lock while it builds graphs, which takes a minute for 100,000
memories. `tidy` therefore has a process of its own do it on a copy, goes on serving, repeats on the
copy what came meanwhile, and then changes over by replacing the small file. This is also what takes
removed memories off the disk: the engine marks deleted points and leaves their bytes.
"""

import errno
import fcntl
import functools
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import msgspec
import numpy as np
import qdrant_edge as edge

from blackboard.errors import SettingsError, UnavailableError
from blackboard.recall import points
from blackboard.recall.collection import MAX_VALUES, TAKE, Collection, Point, Sort
from blackboard.recall.index import Entry, Signature, Sparse, Vectors
from blackboard.recall.predicate import All, Between, Condition, Empty, Not, OneOf, Some
from blackboard.subjects import Ref

FORMAT = 1
"""Of the directory; another one is built anew."""
STATE = "index.json"
LOCK = "lock"
PART = ".part"
UNSORTED = 5_000
"""Memories that are searched one by one before a graph over them pays, and that is at least."""
UNSORTED_SHARE = 0.1
"""The same as a share of all, so that the work on a growing index grows with it only."""

P = ParamSpec("P")
T = TypeVar("T")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the small file says."""

    format: int
    signature: Signature
    generation: str
    """Which of the directories beside it is the engine's."""
    position: int
    removed: int = 0
    """Memories taken out since bytes were last taken off the disk."""
    sorted: int = 0
    """Memories there were when graphs were last built."""


class EdgeIndex(Collection):
    """An index in this process; make one with `open`, and `close` it."""

    def __init__(
        self, directory: Path, lock: TextIOWrapper, kept: Kept, shard: edge.EdgeShard
    ) -> None:
        super().__init__(kept.signature)
        self._directory = directory
        self._lock = lock
        self._kept = kept
        self._shard = shard
        self._reached = kept.position
        self._removed = kept.removed
        self._writing = anyio.Lock()
        self._tidying = anyio.Lock()
        self._limiter = anyio.CapacityLimiter(2)
        self._unsorted = 0
        self._dirty = False
        self._since: list[edge.UpdateOperation] | None = None

    @classmethod
    async def open(cls, directory: Path, signature: Signature) -> "EdgeIndex":
        """Open the index in a directory; one that is not there is made, empty.

        Raises:
            SettingsError: Another process has it open, it is damaged or no index, or it was built
                with another signature; the text has the command to run.
        """
        return await anyio.to_thread.run_sync(cls._open, directory, signature)

    @classmethod
    def _open(cls, directory: Path, signature: Signature) -> "EdgeIndex":
        _prepare(directory)
        lock = _locked(directory)
        try:
            kept = _read_state(directory, signature)
            shard = _load(directory, kept)
        except BaseException:
            lock.close()
            raise
        return cls(directory, lock, kept, shard)

    async def position(self) -> int:
        """The last revision that is on disk."""
        return self._kept.position

    async def apply(self, entries: Sequence[Entry], gone: Sequence[Ref], position: int) -> None:
        """Take in and take out; see `Index.apply`.

        Raises:
            InvalidError: A vector is none, or of other dimensions; nothing was applied.
        """
        async with self._writing:
            newer, replaced = await self._newer(entries)
            operations = [*self._removal(gone, position), *_upserts(newer)]
            with anyio.CancelScope(shield=True):  # half a batch would be searched, and not repeated
                for operation in operations:
                    await self._run(self._shard.update, operation)
                    if self._since is not None:
                        self._since.append(operation)
            # Replaced points leave their bytes behind as removed ones do.
            self._removed += len(gone) + replaced
            self._unsorted += len(newer)
            self._dirty = True
            self._reached = max(self._reached, position)

    async def flush(self) -> None:
        """Make what was applied durable, and then say so."""
        async with self._writing:
            await self._flush()

    async def close(self) -> None:
        """Flush, and let go of the directory."""
        with anyio.CancelScope(shield=True):
            async with self._writing:
                await self._flush()
                await self._run(self._shard.close)
                self._lock.close()

    async def destroy(self) -> None:
        """Close, and remove the directory."""
        await self.close()
        await anyio.to_thread.run_sync(_remove, self._directory)

    async def _flush(self) -> None:
        if self._dirty:
            await self._run(self._shard.flush)
            await self._keep(position=self._reached, removed=self._removed)
            self._dirty = False

    async def tidy(self, *, scrub: bool = False) -> bool:
        """Build graphs and free room if it is due, beside serving; see `Index.tidy`.

        Takes a core for a minute per 100,000 memories, and on disk as much again as the index has.
        Writers wait while files are copied, and while what they wrote meanwhile is repeated.
        """
        async with self._tidying:
            due = self._unsorted >= max(UNSORTED, UNSORTED_SHARE * self._kept.sorted)
            if not due and not (scrub and self._removed):
                return False
            generation = uuid.uuid4().hex[:12]
            path = _home(self._directory, generation)
            try:
                removed = await self._copy(path)
                await self._optimize(path, scrub=scrub)
                await self._change_over(generation, removed if scrub else 0)
            finally:
                self._since = None
                if self._kept.generation != generation:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(_remove, path)
            return True

    async def _copy(self, path: Path) -> int:
        """Copy what is on disk; from here on `_since` has what is not in the copy."""
        async with self._writing:
            await self._flush()
            mine = _home(self._directory, self._kept.generation)
            await anyio.to_thread.run_sync(_copy_tree, mine, path)
            self._since = []
            self._unsorted = 0
            return self._removed

    async def _optimize(self, path: Path, *, scrub: bool) -> None:
        command = [sys.executable, "-m", "blackboard.recall.optimize", str(path)]
        order = msgspec.json.encode({"signature": self._signature, "scrub": scrub})
        done = await anyio.run_process(command, input=order, check=False)
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise UnavailableError(
                f"the index could not be optimized (exit {done.returncode}: {' '.join(last)}); it goes "
                "on serving as it is: check memory and disk, and try again"
            )

    async def _change_over(self, generation: str, removed: int) -> None:
        with anyio.CancelScope(shield=True):
            async with self._writing:
                path = _home(self._directory, generation)
                shard = await self._run(edge.EdgeShard.load, str(path), config(self._signature))
                for operation in self._since or ():
                    await self._run(shard.update, operation)
                await self._run(shard.flush)
                before = self._kept.generation
                self._removed -= removed
                await self._keep(
                    generation=generation,
                    position=self._reached,
                    removed=self._removed,
                    sorted=shard.info().points_count,
                )
                # Searches that still run hold the old one; it closes itself behind the last.
                self._shard, self._dirty = shard, False
                await anyio.to_thread.run_sync(_remove, _home(self._directory, before))

    async def _keep(self, **changes: Any) -> None:
        kept = msgspec.structs.replace(self._kept, **changes)
        await anyio.to_thread.run_sync(_write_state, self._directory, kept)
        self._kept = kept

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await anyio.to_thread.run_sync(
                functools.partial(call, *args, **kwargs), limiter=self._limiter
            )
        except Exception as error:  # noqa: BLE001 - the engine raises nothing more special
            raise UnavailableError(
                f"the index in {str(self._directory)!r} failed ({error}); try again, and if it stays "
                "so run `blackboard reindex`"
            ) from error

    def _removal(self, gone: Sequence[Ref], position: int) -> list[edge.UpdateOperation]:
        if not gone:
            return []
        ids = {points.point_id(self._signature.board, ref) for ref in gone}
        # What was written behind `position` has come back since, and stays.
        old = spell(Between("revision", lte=position))
        condition = edge.Filter(must=[edge.HasIdCondition(set(ids)), old])
        return [edge.UpdateOperation.delete_points_by_filter(condition)]

    # What `Collection` asks for.

    async def _find(
        self, vectors: Vectors, parts: Sequence[str], condition: All, limit: int
    ) -> list[list[Point]]:
        filter = spell(condition)  # noqa: A001
        requests = [
            edge.QueryRequest(
                limit=limit,
                query=_nearest(part, vectors),
                filter=filter,
                with_payload=points.SCORED,
            )
            for part in parts
        ]
        answers = await self._run(self._shard.query_batch, edge.QueryBatchRequest(requests))
        return [[Point(hit.payload or {}, hit.score) for hit in answer] for answer in answers]

    async def _scroll(
        self, condition: All, limit: int, sort: Sort | None, fields: Sequence[str]
    ) -> list[Point]:
        order = None
        if sort is not None:
            direction = edge.Direction.Desc if sort.descending else edge.Direction.Asc
            order = edge.OrderBy(sort.field, direction, sort.start)
        request = edge.ScrollRequest(
            limit=limit, filter=spell(condition), with_payload=list(fields), order_by=order
        )
        records, _ = await self._run(self._shard.scroll, request)
        return [Point(record.payload or {}) for record in records]

    async def _facet(self, field: str, condition: All) -> dict[str, int]:
        request = edge.FacetRequest(field, MAX_VALUES, exact=True, filter=spell(condition))
        answer = await self._run(self._shard.facet, request)
        return {str(hit.value): hit.count for hit in answer.hits}

    async def _count(self, condition: All) -> int:
        return await self._run(self._shard.count, edge.CountRequest(True, spell(condition)))  # noqa: FBT003

    async def _retrieve(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Point]:
        records = await self._run(self._shard.retrieve, list(ids), list(fields), False)  # noqa: FBT003
        return {str(record.id): Point(record.payload or {}) for record in records}

    async def _read(self, id: str) -> tuple[Mapping[str, Any], Vectors] | None:  # noqa: A002
        records = await self._run(self._shard.retrieve, [id], True, True)  # noqa: FBT003
        if not records:
            return None
        held: Any = records[0].vector
        words = held[points.WORDS]
        bare, context = (np.asarray(held[name], dtype=np.float32) for name in points.DENSE)
        sparse = Sparse(tuple(words.indices), tuple(words.values))
        return records[0].payload or {}, Vectors(bare, context, sparse)


def spell(condition: Condition) -> Any:
    """A condition in the engine's words."""
    match condition:
        case OneOf(field, values):
            found = edge.MatchValue(values[0]) if len(values) == 1 else edge.MatchAny(list(values))
            return edge.FieldCondition(field, match=found)
        case Between(field, gte, gt, lte, lt):
            return edge.FieldCondition(field, range=edge.RangeFloat(gte, gt, lte, lt))
        case Empty(field):
            return edge.IsEmptyCondition(field)
        case All(parts):
            return edge.Filter(must=[spell(part) for part in parts])
        case Some(parts):
            return edge.Filter(should=[spell(part) for part in parts])
        case Not(part):
            return edge.Filter(must_not=[spell(part)])


def config(signature: Signature, *, scrub: bool = False) -> edge.EdgeConfig:
    """How the engine stores and searches.

    Args:
        signature: Has the dimensions.
        scrub: Write anew whatever holds a single removed point.
    """
    dense = edge.EdgeVectorParams(size=signature.dimensions, distance=edge.Distance.Dot)
    return edge.EdgeConfig(
        vectors=dict.fromkeys(points.DENSE, dense),
        sparse_vectors={points.WORDS: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
        optimizers=edge.EdgeOptimizersConfig(
            default_segment_number=2,
            indexing_threshold=5_000,
            deleted_threshold=1e-9 if scrub else 0.2,
            vacuum_min_vector_number=1 if scrub else 1_000,
        ),
        wal_enabled=False,
    )


def _nearest(part: str, vectors: Vectors) -> edge.Query:
    if part == points.WORDS:
        words = vectors.words
        sparse = edge.SparseVector(list(words.indices), list(words.values))
        return edge.Query.Nearest(sparse, using=part)
    vector: Any = vectors.bare if part == "bare" else vectors.context
    return edge.Query.Nearest(vector, using=part)


def _upserts(entries: Mapping[str, Entry]) -> list[edge.UpdateOperation]:
    made = [_point(place, entry) for place, entry in entries.items()]
    return [
        edge.UpdateOperation.upsert_points(made[start : start + TAKE])
        for start in range(0, len(made), TAKE)
    ]


def _point(place: str, entry: Entry) -> edge.Point:
    words = entry.vectors.words
    vectors: Any = {
        "bare": entry.vectors.bare,
        "context": entry.vectors.context,
        points.WORDS: edge.SparseVector(list(words.indices), list(words.values)),
    }
    return edge.Point(place, vectors, points.payload(entry))


def _prepare(directory: Path) -> None:
    """Make the directory, unless it is somebody else's."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in directory.iterdir()} - {LOCK}
    except OSError as error:
        raise SettingsError(
            f"cannot use {str(directory)!r} for the index ({error.strerror}); name a directory that "
            "this user may write"
        ) from error
    names -= {f"{STATE}{PART}"}
    if names and STATE not in names:
        raise SettingsError(
            f"{str(directory)!r} holds something that is no index ({sorted(names)[0]!r}); name "
            "another directory, or remove what is there"
        )


def _locked(directory: Path) -> TextIOWrapper:
    # The kernel lets go of the lock when its holder dies, so there is no stale one to break.
    lock = (directory / LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise SettingsError(
            f"the index in {str(directory)!r} is open in another process ({holder or 'unknown'}); "
            "end that one, or let it serve: one process owns an index"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def _damaged(directory: Path, why: object) -> SettingsError:
    return SettingsError(
        f"the index in {str(directory)!r} cannot be read ({why}); nothing is lost, the board holds "
        "everything: run `blackboard reindex`, or remove the directory"
    )


def _read_state(directory: Path, signature: Signature) -> Kept:
    path = directory / STATE
    if not path.exists():
        kept = Kept(format=FORMAT, signature=signature, generation="0", position=0)
        _write_state(directory, kept)
        return kept
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (msgspec.MsgspecError, OSError) as error:
        raise _damaged(directory, error) from error
    if kept.format != FORMAT:
        raise _damaged(directory, f"format {kept.format} instead of {FORMAT}")
    different = points.mismatch(kept.signature, signature)
    if different is not None:
        raise SettingsError(f"{different} (in {str(directory)!r})")
    return kept


def _write_state(directory: Path, kept: Kept) -> None:
    """Replace the small file, whole or not at all, also across a power cut."""
    part = directory / f"{STATE}{PART}"
    with part.open("wb") as file:
        file.write(msgspec.json.encode(kept))
        file.flush()
        os.fsync(file.fileno())
    part.replace(directory / STATE)
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _home(directory: Path, generation: str) -> Path:
    return directory / f"generation-{generation}"


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy files without their holes, which are most of what the engine lays out."""
    shutil.copytree(source, target, copy_function=_copy_file)


def _copy_file(source: str, target: str) -> str:
    with Path(source).open("rb", buffering=0) as old, Path(target).open("wb", buffering=0) as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        while at < size:
            try:
                begin = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # "no more data": the rest is a hole
                    raise
                break
            at = os.lseek(old.fileno(), begin, os.SEEK_HOLE)
            old.seek(begin)
            new.seek(begin)
            while begin < at:
                begin += new.write(old.read(min(at - begin, 1 << 20)))
        new.truncate(size)
    return target


def _load(directory: Path, kept: Kept) -> edge.EdgeShard:
    """Open the engine's directory; what an interrupted start or `tidy` left is removed."""
    mine = _home(directory, kept.generation)
    for path in directory.glob("generation-*"):
        if path != mine or kept.position == 0:
            _remove(path)
    try:
        if kept.position == 0:
            return _create(mine, kept.signature)
        if not mine.exists():
            raise _damaged(directory, "its data are gone")
        return edge.EdgeShard.load(str(mine), config(kept.signature))
    except SettingsError:
        raise
    except BaseException as error:  # the engine panics on some damage, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise _damaged(directory, error) from error


def _create(path: Path, signature: Signature) -> edge.EdgeShard:
    shard = edge.EdgeShard.create(str(path), config(signature))
    for field, kind in points.FIELDS.items():
        schema: Any
        # Graphs by field would take as long again to build; few matches are compared one by one.
        if kind == "keyword":
            schema = edge.KeywordIndexParams(enable_hnsw=False)
        elif kind == "integer":
            schema = edge.IntegerIndexParams(lookup=field == "depth", range=True, enable_hnsw=False)
        else:
            schema = edge.FloatIndexParams(enable_hnsw=False)
        shard.update(edge.UpdateOperation.create_field_index(field, schema))
    return shard
