"""The index on a Qdrant server, for boards that outgrow one process or share a server.

What `apply` has written is in the server's log when it returns, the position last, as a point
among the others: one log, one order, so the position cannot be ahead. That point ends in 1970,
which keeps it out of every search. Removed memories leave the server's disk when its own optimizer
and log get to it; `tidy` can do nothing about that.
"""

import uuid
import warnings
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, TypeVar

import anyio
import msgspec
import numpy as np
from qdrant_client import AsyncQdrantClient, models

from blackboard.errors import SettingsError
from blackboard.recall import points, server
from blackboard.recall.collection import MAX_VALUES, TAKE, Collection, Point, Sort
from blackboard.recall.index import Entry, Signature, Sparse, Vectors
from blackboard.recall.predicate import All, Between, Condition, Empty, Not, OneOf, Some
from blackboard.recall.weights import FloatArray
from blackboard.subjects import BB_NAMESPACE, Ref

BOOKS: Final = str(uuid.uuid5(BB_NAMESPACE, "index"))
"""The point that holds signature and position; no memory's, as those have a board in their name."""

T = TypeVar("T")


class QdrantIndex(Collection):
    """An index on a server; make one with `open`, and `close` it.

    One service writes to a collection at a time; any number may search it.
    """

    def __init__(self, client: AsyncQdrantClient, name: str, signature: Signature) -> None:
        super().__init__(signature)
        self._client = client
        self._name = name
        self._writing = anyio.Lock()

    @classmethod
    async def open(
        cls,
        url: str,
        collection: str,
        signature: Signature,
        *,
        key: str | None = None,
        grpc_port: int = server.GRPC_PORT,
        timeout_s: int = server.TIMEOUT_S,
    ) -> "QdrantIndex":
        """Open a collection; one that is not there is made, empty.

        Raises:
            UnavailableError: The server does not answer; retry later.
            SettingsError: It is too old, refuses the key, or the collection is no index.
            MismatchError: The index was built with another signature.
            BrokenIndexError: It is of another format.
        """
        client = server.client(url, key, grpc_port, timeout_s)
        try:
            await server.check_version(client, url)
            return await cls.over(client, collection, signature)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await client.close()
            raise

    @classmethod
    async def over(
        cls, client: AsyncQdrantClient, collection: str, signature: Signature
    ) -> "QdrantIndex":
        """The same over a client that is connected, which the index closes with itself."""
        index = cls(client, collection, signature)
        if not await index._ask(client.collection_exists(collection)):
            await index._create()
        found = await index._books()
        if found is None:
            await index._finish()
            return index
        points.check_format(found.get("format"), collection)
        built = msgspec.convert(found["signature"], Signature)
        points.check_signature(built, signature, collection)
        return index

    async def position(self) -> int:
        """The last revision that the server holds."""
        books = await self._books()
        if books is None:
            raise server.lost(self._name)
        return int(books["position"])

    async def apply(self, entries: Sequence[Entry], gone: Sequence[Ref], position: int) -> None:
        """Take in and take out; see `Index.apply`. On the server when it returns.

        Raises:
            InvalidError: A vector is none, or of other dimensions; nothing was applied.
            UnavailableError: Some of it may have been applied; apply it again.
        """
        async with self._writing:
            newer, _ = await self._newer(entries)
            if gone:
                await self._ask(
                    self._client.delete(self._name, self._removal(gone, position), wait=True)
                )
            made = [_point(place, entry) for place, entry in newer.items()]
            for start in range(0, len(made), TAKE):
                part = made[start : start + TAKE]
                await self._ask(self._client.upsert(self._name, part, wait=True))
            await self._keep(position)

    async def flush(self) -> None:
        """Nothing is left to do: every write has waited for the server."""

    @property
    def erases(self) -> bool:
        """The server's files are its own; a collection that is made anew leaves nothing."""
        return False

    async def tidy(self, *, scrub: bool = False) -> bool:
        """The server's optimizer works on its own; nothing is done here, also not for `scrub`."""
        del scrub
        return False

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.close()

    async def destroy(self) -> None:
        """Remove the collection, and let go of the connection."""
        await self._ask(self._client.delete_collection(self._name))
        await self._client.close()

    # Steps.

    async def _create(self) -> None:
        dense = models.VectorParams(size=self._signature.dimensions, distance=models.Distance.DOT)
        words = models.SparseVectorParams(modifier=models.Modifier.IDF)
        await self._ask(
            self._client.create_collection(
                self._name,
                vectors_config={points.BARE: dense},
                sparse_vectors_config={points.WORDS: words},
                optimizers_config=models.OptimizersConfigDiff(deleted_threshold=0.05),
            )
        )

    async def _finish(self) -> None:
        """Make what an interrupted start has left undone; a collection of others stays as it is."""
        if await self._count(All()):
            raise SettingsError(
                f"the collection {self._name!r} holds points that are no index of a board; name "
                "another collection"
            )
        with warnings.catch_warnings():
            # The local mode of the client has no indexes, and says so.
            warnings.filterwarnings("ignore", "Payload indexes have no effect")
            for field, kind in points.FIELDS.items():
                await self._ask(
                    self._client.create_payload_index(self._name, field, _schema(field, kind))
                )
        await self._keep(0)

    async def _books(self) -> Mapping[str, Any] | None:
        found = (await self._retrieve([BOOKS], ["format", "signature", "position"])).get(BOOKS)
        return None if found is None else found.fields

    async def _keep(self, position: int) -> None:
        fields = {
            "expires": 0,
            "format": points.FORMAT,
            "signature": msgspec.to_builtins(self._signature),
            "position": position,
        }
        # A service that was replaced and writes late does not take the position back.
        lower = spell(All((Between("position", lt=position),)))
        books = models.PointStruct(id=BOOKS, vector={}, payload=fields)
        await self._ask(self._client.upsert(self._name, [books], wait=True, update_filter=lower))

    def _removal(self, gone: Sequence[Ref], position: int) -> models.FilterSelector:
        ids: Any = [points.point_id(self._signature.board, ref) for ref in gone]
        # What was written behind `position` has come back since, and stays.
        old = spell(Between("revision", lte=position))
        return models.FilterSelector(
            filter=models.Filter(must=[models.HasIdCondition(has_id=ids), old])
        )

    async def _ask(self, answer: Awaitable[T]) -> T:
        return await server.asked(self._name, answer)

    # What `Collection` asks for.

    async def _find(
        self, wanted: Mapping[str, FloatArray | Sparse], condition: All, limit: int
    ) -> list[list[Point]]:
        filter = spell(condition)  # noqa: A001
        requests = [
            models.QueryRequest(
                query=_vector(vector),
                using=part,
                filter=filter,
                limit=limit,
                with_payload=points.SCORED,
            )
            for part, vector in wanted.items()
        ]
        answers = await self._ask(self._client.query_batch_points(self._name, requests))
        return [
            [Point(hit.payload or {}, hit.score) for hit in answer.points] for answer in answers
        ]

    async def _scroll(
        self, condition: All, limit: int, sort: Sort | None, fields: Sequence[str]
    ) -> list[Point]:
        order = None
        if sort is not None:
            direction = models.Direction.DESC if sort.descending else models.Direction.ASC
            order = models.OrderBy(key=sort.field, direction=direction, start_from=sort.start)
        records, _ = await self._ask(
            self._client.scroll(
                self._name,
                scroll_filter=spell(condition),
                limit=limit,
                order_by=order,
                with_payload=list(fields),
            )
        )
        return [Point(record.payload or {}) for record in records]

    async def _facet(self, field: str, condition: All) -> dict[str, int]:
        answer = await self._ask(
            self._client.facet(
                self._name, field, facet_filter=spell(condition), limit=MAX_VALUES, exact=True
            )
        )
        return {str(hit.value): hit.count for hit in answer.hits}

    async def _count(self, condition: All) -> int:
        answer = await self._ask(
            self._client.count(self._name, count_filter=spell(condition), exact=True)
        )
        return answer.count

    async def _retrieve(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Point]:
        records = await self._ask(
            self._client.retrieve(self._name, list(ids), with_payload=list(fields))
        )
        return {str(record.id): Point(record.payload or {}) for record in records}

    async def _read(self, id: str) -> tuple[Mapping[str, Any], Vectors] | None:  # noqa: A002
        records = await self._ask(
            self._client.retrieve(self._name, [id], with_payload=True, with_vectors=True)
        )
        if not records:
            return None
        held: Any = records[0].vector
        words = held[points.WORDS]
        bare = np.asarray(held[points.BARE], dtype=np.float32)
        sparse = Sparse(tuple(words.indices), tuple(words.values))
        return records[0].payload or {}, Vectors(bare, sparse)


def spell(condition: Condition) -> Any:
    """A condition in the server's words."""
    match condition:
        case OneOf(field, values):
            match: Any = (
                models.MatchValue(value=values[0])
                if len(values) == 1
                else models.MatchAny(any=list(values))  # pyright: ignore[reportArgumentType]
            )
            return models.FieldCondition(key=field, match=match)
        case Between(field, gte, gt, lte, lt):
            return models.FieldCondition(
                key=field, range=models.Range(gte=gte, gt=gt, lte=lte, lt=lt)
            )
        case Empty(field):
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=field))
        case All(parts):
            return models.Filter(must=[spell(part) for part in parts])
        case Some(parts):
            return models.Filter(should=[spell(part) for part in parts])
        case Not(part):
            return models.Filter(must_not=[spell(part)])


def _vector(vector: FloatArray | Sparse) -> Any:
    if isinstance(vector, Sparse):
        return models.SparseVector(indices=list(vector.indices), values=list(vector.values))
    return vector.tolist()


def _point(place: str, entry: Entry) -> models.PointStruct:
    vectors: Any = {
        points.BARE: _vector(entry.vectors.bare),
        points.WORDS: _vector(entry.vectors.words),
    }
    return models.PointStruct(id=place, vector=vectors, payload=points.payload(entry))


def _schema(field: str, kind: str) -> Any:
    if kind == "keyword":
        return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
    if kind == "integer":
        return models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=field == "depth", range=True
        )
    return models.FloatIndexParams(type=models.FloatIndexType.FLOAT)
