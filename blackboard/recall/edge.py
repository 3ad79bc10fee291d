"""The index in this process: `qdrant-edge-py`, in a directory that one process owns.

The engine keeps no log of its own (the stream is the log), so what was applied is on disk by
`flush` only. How far that reaches is written beside the engine's files when the engine's flush has
returned: after a crash it may say less than is there, never more, and applying again changes
nothing.

The engine holds the interpreter's lock while it builds graphs, which takes a minute for 100,000
memories. `tidy` therefore has a process of its own do it on a copy, goes on serving, repeats on the
copy what came meanwhile, and changes over. This is also what takes removed memories off the disk:
the engine marks deleted points and leaves their bytes.
"""

import functools
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import msgspec
import numpy as np
import qdrant_edge as edge

from blackboard.errors import UnavailableError
from blackboard.recall import directory as files, points
from blackboard.recall.collection import MAX_VALUES, TAKE, Collection, Point, Sort
from blackboard.recall.directory import Directory
from blackboard.recall.index import Entry, Signature, Sparse, Vectors
from blackboard.recall.predicate import All, Between, Condition, Empty, Not, OneOf, Some
from blackboard.recall.weights import FloatArray
from blackboard.subjects import Ref

UNSORTED = 5_000
"""Memories that are compared one by one before a graph over them pays."""
UNSORTED_SHARE = 0.1
"""The same as a share of all, so that building graphs again and again costs a factor at most."""
THREADS = 2
"""Calls at a time; the engine does most of its work under the interpreter's lock anyway."""

PROBED = 64
"""Memories that are read when an index is opened."""

P = ParamSpec("P")
T = TypeVar("T")


class EdgeIndex(Collection):
    """An index in this process; make one with `open`, and `close` it."""

    def __init__(self, home: Directory, shard: edge.EdgeShard) -> None:
        super().__init__(home.books.signature)
        self._home = home
        self._shard = shard
        self._reached = home.books.position
        self._removed = home.books.removed
        self._unsorted = shard.info().points_count - home.books.sorted
        self._dirty = False
        self._since: list[edge.UpdateOperation] | None = None
        """What was applied since the copy was made that is being tidied."""
        self._writing = anyio.Lock()
        self._tidying = anyio.Lock()
        self._limiter = anyio.CapacityLimiter(THREADS)

    @classmethod
    async def open(cls, directory: Path, signature: Signature) -> "EdgeIndex":
        """Open the index in a directory; one that is not there is made, empty.

        Raises:
            UnavailableError: Another process has it open.
            SettingsError: The directory cannot be used, or holds something else.
            MismatchError: It was built with another signature.
            BrokenIndexError: It cannot be read; build it anew.
        """
        return await anyio.to_thread.run_sync(cls._open, directory, signature)

    @classmethod
    def _open(cls, directory: Path, signature: Signature) -> "EdgeIndex":
        home = Directory.take(directory, signature)
        try:
            path = home.generation()
            new = not path.exists()
            shard = _guarded(directory, _create if new else _load, path, signature)
            there, held = shard.info().points_count, home.books.held
            _guarded(directory, _probe, shard)
            if held is not None:
                # The engine takes files that were cut short for files that end there.
                if there != held:
                    raise files.broken(directory, f"{there} memories instead of {held}")
                home.keep(msgspec.structs.replace(home.books, held=None))
            return cls(home, shard)
        except BaseException:
            home.release()
            raise

    @property
    def loose(self) -> int:
        """Memories that no graph holds; see `Index.loose`."""
        return self._unsorted

    async def position(self) -> int:
        """The last revision that is on disk."""
        return self._home.books.position

    async def apply(self, entries: Sequence[Entry], gone: Sequence[Ref], position: int) -> None:
        """Take in and take out; see `Index.apply`."""
        async with self._writing:
            newer, replaced = await self._newer(entries)
            operations = [*self._removal(gone, position), *_upserts(newer)]
            with anyio.CancelScope(shield=True):  # half a batch would be found, and not repeated
                self._dirty = True
                for operation in operations:
                    await self._run(self._shard.update, operation)
                    if self._since is not None:
                        self._since.append(operation)
            # Replaced points leave their bytes behind as removed ones do.
            self._removed += len(gone) + replaced
            self._unsorted += len(newer)
            self._reached = max(self._reached, position)

    async def flush(self) -> None:
        """Make what was applied durable, and then say so; see `Index.flush`."""
        async with self._writing:
            await self._flush()

    async def tidy(self, *, scrub: bool = False) -> bool:
        """Build graphs and free room if it is due, beside serving; see `Index.tidy`.

        Takes a core for a minute per 100,000 memories, and for that time as much disk as the index
        has and up to twice its memory.

        Raises:
            UnavailableError: It failed; the index goes on serving as it is.
        """
        async with self._tidying:
            due = self._unsorted >= max(UNSORTED, UNSORTED_SHARE * self._home.books.sorted)
            if not due and not (scrub and self._removed):
                return False
            name = uuid.uuid4().hex[:12]
            try:
                removed = await self._copy(name)
                await self._optimize(name, scrub=scrub)
                await self._change_over(name, removed if scrub else 0)
            finally:
                self._since = None
                if self._home.books.generation != name:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(files.remove, self._home.generation(name))
            return True

    async def close(self) -> None:
        """Flush, and let go of the directory."""
        with anyio.CancelScope(shield=True):
            async with self._writing:
                try:
                    await self._flush()
                    if self._reached:
                        await self._keep(held=self._shard.info().points_count)
                finally:
                    await self._run(self._shard.close)
                    self._home.release()

    async def destroy(self) -> None:
        """Close, and remove the directory."""
        await self.close()
        await anyio.to_thread.run_sync(files.remove, self._home.path)

    # Steps.

    async def _flush(self) -> None:
        if self._dirty:
            await self._run(self._shard.flush)
            await self._keep(position=self._reached, removed=self._removed)
            self._dirty = False

    async def _keep(self, **changes: Any) -> None:
        books = msgspec.structs.replace(self._home.books, **changes)
        await anyio.to_thread.run_sync(self._home.keep, books)

    async def _copy(self, name: str) -> int:
        """Copy what is on disk; from here on `_since` has what is not in the copy."""
        async with self._writing:
            await self._flush()
            mine, copied = self._home.generation(), self._home.generation(name)
            await anyio.to_thread.run_sync(files.copy, mine, copied)
            self._since = []
            return self._removed

    async def _optimize(self, name: str, *, scrub: bool) -> None:
        path = self._home.generation(name)
        command = [sys.executable, "-m", "blackboard.recall.optimize", str(path)]
        order = msgspec.json.encode({"signature": self._signature, "scrub": scrub})
        done = await anyio.run_process(command, input=order, check=False)
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise UnavailableError(
                f"the index could not be optimized (exit {done.returncode}: {' '.join(last)}); it "
                "goes on serving as it is: check memory and disk, and try again"
            )

    async def _change_over(self, name: str, scrubbed: int) -> None:
        path, before = self._home.generation(name), self._home.generation()
        with anyio.CancelScope(shield=True):
            async with self._writing:
                shard = await self._run(_load, path, self._signature)
                kept = shard.info().points_count
                for operation in self._since or ():
                    await self._run(shard.update, operation)
                await self._run(shard.flush)
                self._removed -= scrubbed
                await self._keep(
                    generation=name, position=self._reached, removed=self._removed, sorted=kept
                )
                self._unsorted = len(self._since or ()) * TAKE
                # Searches that still run hold the old one, which closes itself behind the last.
                self._shard, self._dirty = shard, False
                await anyio.to_thread.run_sync(files.remove, before)

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(
            functools.partial(_guarded, self._home.path, call, *args, **kwargs),
            limiter=self._limiter,
        )

    def _removal(self, gone: Sequence[Ref], position: int) -> list[edge.UpdateOperation]:
        if not gone:
            return []
        ids: Any = {points.point_id(self._signature.board, ref) for ref in gone}
        # What was written behind `position` has come back since, and stays.
        old = spell(Between("revision", lte=position))
        condition = edge.Filter(must=[edge.HasIdCondition(ids), old])
        return [edge.UpdateOperation.delete_points_by_filter(condition)]

    # What `Collection` asks for.

    async def _find(
        self, wanted: Mapping[str, FloatArray | Sparse], condition: All, limit: int
    ) -> list[list[Point]]:
        filter = spell(condition)  # noqa: A001
        requests = [
            edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(_vector(vector), using=part),
                filter=filter,
                with_payload=points.SCORED,
            )
            for part, vector in wanted.items()
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
        request = edge.CountRequest(exact=True, filter=spell(condition))
        return await self._run(self._shard.count, request)

    async def _retrieve(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Point]:
        records = await self._run(self._shard.retrieve, list(ids), list(fields), with_vector=False)
        return {str(record.id): Point(record.payload or {}) for record in records}

    async def _read(self, id: str) -> tuple[Mapping[str, Any], Vectors] | None:  # noqa: A002
        records = await self._run(self._shard.retrieve, [id], with_payload=True, with_vector=True)
        if not records:
            return None
        held: Any = records[0].vector
        words = held[points.WORDS]
        bare = np.asarray(held[points.BARE], dtype=np.float32)
        return records[0].payload or {}, Vectors(
            bare, Sparse(tuple(words.indices), tuple(words.values))
        )


def spell(condition: Condition) -> Any:
    """A condition in the engine's words."""
    match condition:
        case OneOf(field, values):
            some: Any = list(values)
            found = edge.MatchValue(some[0]) if len(some) == 1 else edge.MatchAny(some)
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
        vectors={points.BARE: dense},
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


def _guarded(directory: Path, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the engine, which raises plain `Exception`, and panics with what is none."""
    try:
        return call(*args, **kwargs)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        if call in {_load, _create, _probe}:
            raise files.broken(directory, error) from error
        raise UnavailableError(
            f"the index in {str(directory)!r} failed ({error}); check the disk and try again, and "
            "if it stays so run `blackboard reindex`"
        ) from error
    except BaseException as error:
        raise files.broken(directory, error) from error


def _load(path: Path, signature: Signature) -> edge.EdgeShard:
    return edge.EdgeShard.load(str(path), config(signature))


def _probe(shard: edge.EdgeShard) -> None:
    """Read a few points, all over the files: a file that is empty is found out by reading only."""
    shard.scroll(edge.ScrollRequest(limit=PROBED, with_payload=True, with_vector=True))


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


def _vector(vector: FloatArray | Sparse) -> Any:
    if isinstance(vector, Sparse):
        return edge.SparseVector(list(vector.indices), list(vector.values))
    return vector.tolist()  # the engine takes an array number by number, ten times slower


def _upserts(entries: Mapping[str, Entry]) -> list[edge.UpdateOperation]:
    made = [
        edge.Point(
            place,
            {
                points.BARE: _vector(entry.vectors.bare),
                points.WORDS: _vector(entry.vectors.words),
            },
            points.payload(entry),
        )
        for place, entry in entries.items()
    ]
    return [
        edge.UpdateOperation.upsert_points(made[start : start + TAKE])
        for start in range(0, len(made), TAKE)
    ]
