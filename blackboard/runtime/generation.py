"""The consumer of a handler: made once by whichever replica comes first, joined by all others.

Each time it is made anew is a run, counted in a record on the board. What an earlier run made is
made again by a later one, as the next revision of the same outputs; so a replica must know which
run a delivery belongs to, and looks again whenever the consumer may have been replaced under it.
"""

import logging
from dataclasses import dataclass

import anyio

from blackboard.codec import canonical
from blackboard.errors import ConflictError, SettingsError
from blackboard.jetstream import ConsumerInfo, Durable
from blackboard.jetstream.puller import DELETED
from blackboard.jetstream.stream import NANOSECONDS
from blackboard.log import Log
from blackboard.records import RunRecord
from blackboard.runtime.declared import Handler, begin_at
from blackboard.subjects import SHARED, claim_subject, consumer_name, derived_id
from blackboard.watch import Since

logger = logging.getLogger(__name__)

MAX_ACK_PENDING = 100_000
"""In hand over all replicas; groups that wait for quiescence count too."""
APPEAR_S = 2.0
"""How long another replica may take to make the consumer that it announced."""
RECOVER_S = 15.0
"""How long a broker that has just started may not know its consumers."""
POLL_S = 0.05


@dataclass(slots=True)
class Generation:
    """One run of a handler, as this replica joined it."""

    run: int
    made_here: bool
    ended: bool = False


class Place:
    """Where a handler's deliveries come from."""

    def __init__(self, log: Log, handler: Handler, version: str, launch: str) -> None:
        self._log = log
        self._handler = handler
        self._version = version
        self._launch = launch
        self.filter = handler.pattern.subject(log.board)
        self.durable = Durable(log.connection, log.stream, consumer_name(log.agent, handler.name))
        name = f"r-{derived_id(canonical([handler.name]))}"
        self._subject = claim_subject(log.board, SHARED, log.agent, name)

    async def enter(self, start: Since | str) -> Generation:
        """Join the consumer, or make it; with `start`, as a new run unless this launch made one.

        A new run takes the code's settings; replicas with others will stop.

        Raises:
            SettingsError: It is there with other settings than the code has.
            UnavailableError: The broker does not answer.
        """
        while True:
            info = await self.durable.info()
            if info is not None and (start is None or _note(info, "launch") == self._launch):
                return self._joined(info)
            record, sequence = await self._log.record_at(self._subject, RunRecord)
            if record is not None and record.launch == self._launch:
                # A sibling announced it: give it time, and if it died, do it ourselves.
                sibling = await self._appears(record.run)
                if sibling is not None:
                    return self._joined(sibling)
            run = 1 + max(
                record.run if record is not None else 0, 0 if info is None else _run(info)
            )
            announced = self._log.record(
                self._subject, RunRecord(run, self._launch), expected=sequence, ttl_s=None
            )
            try:
                await self._log.send([announced])
            except ConflictError:
                continue
            if info is not None:
                await self.durable.delete()
            if await self._create(run, start if start is not None else self._handler.start):
                return Generation(run, made_here=True)

    async def again(self, reason: str) -> Generation:
        """Look at the consumer after a disturbance.

        Args:
            reason: What the broker said, or what happened to the connection.

        Raises:
            SettingsError: It was removed, or replaced by one with other settings.
            UnavailableError: The broker does not answer.
        """
        info = await self._appears(0, APPEAR_S if reason == DELETED else RECOVER_S)
        if info is None:
            raise SettingsError(
                f"the consumer {self.durable.name!r} was removed while its agent ran; "
                "start the agent again to begin anew"
            )
        return self._joined(info)

    async def _appears(self, run: int, limit_s: float = APPEAR_S) -> ConsumerInfo | None:
        with anyio.move_on_after(limit_s):
            while True:
                info = await self.durable.info()
                if info is not None and _run(info) >= run:
                    return info
                await anyio.sleep(POLL_S)
        return None

    async def _create(self, run: int, start: Since | str) -> bool:
        made = await self.durable.create(
            self.filter,
            begin_at(start),
            ack_wait_s=self._handler.ack_wait_s,
            max_ack_pending=MAX_ACK_PENDING,
            metadata={
                "run": str(run),
                "launch": self._launch,
                "settings": self._handler.settings,
                "version": self._version,
            },
        )
        if made:
            logger.info(
                "handler.new",
                extra={
                    "handler": self.durable.name,
                    "pattern": self._handler.pattern.text,
                    "run": run,
                    "start": "now" if start is None else str(start),
                },
            )
        return made

    def _joined(self, info: ConsumerInfo) -> Generation:
        self._check(info)
        return Generation(_run(info), made_here=False)

    def _check(self, info: ConsumerInfo) -> None:
        wanted = {
            "pattern": (info.filter, self.filter),
            "ack_wait": (info.config.get("ack_wait", 0) / NANOSECONDS, self._handler.ack_wait_s),
            "settings": (_note(info, "settings"), self._handler.settings),
        }
        agent, handler = self._log.agent, self._handler.name
        for what, (there, here) in wanted.items():
            if there != here:
                raise SettingsError(
                    f"handler {handler!r} of agent {agent!r} has {what} {here!r}, but its consumer "
                    f"was made with {there!r}. Give the handler another name=, so that old and new "
                    f"replicas run side by side; or stop all replicas and remove the consumer with "
                    f"`blackboard agents remove {agent} {handler}`, which forgets its place"
                )


def _note(info: ConsumerInfo, name: str) -> str:
    return info.metadata.get(name, "")


def _run(info: ConsumerInfo) -> int:
    text = _note(info, "run")
    return int(text) if text.isdecimal() else 0
