"""An agent in plain nats-py, written from schemas/README.md alone; it knows nothing of the library.

python agent.py URL BOARD AGENT     commands as JSON lines on stdin, answers and events on stdout
"""

import asyncio
import contextlib
import json
import re
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from desk import DAYS_90, Desk, Outgoing, say
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NothingCame
from nats.js.api import ConsumerConfig, DeliverPolicy
from wire import Conflict, Refused, broker_filter, derived, once_key, parse

THERE = {10013, 10105, 10148}
"""Another replica was first."""
NEWEST = DeliverPolicy.LAST_PER_SUBJECT


class Lease:
    """The lease on one piece of work (section 6)."""

    def __init__(self, desk: Desk, access: str, digest: str, seconds: int) -> None:
        self.desk, self.seconds, self.holder = desk, seconds, uuid.uuid4().hex
        self.over = f"claim.{desk.board}.{access}.*.o-{digest}"
        self.subject = f"claim.{desk.board}.{access}.{desk.name}.o-{digest}"
        self.first: int | None = None
        self.token = 0

    async def take(self) -> bool:
        record, sequence = await self.desk.record(self.over)
        self.first = sequence if self.first is None else self.first
        state = "none" if record is None else record.get("state", "held")
        if state == "held":
            return False
        if record is not None and state == "failed" and sequence > self.first:
            raise Refused(f"failed elsewhere: {record['error']}")
        self.token = sequence
        with contextlib.suppress(Conflict):
            await self.write("held")
            return True
        return False

    async def write(self, state: str, error: str | None = None) -> None:
        until = datetime.now(UTC) + timedelta(seconds=self.seconds)
        said = {"holder": self.holder, "until": until.isoformat(timespec="microseconds")}
        said |= {"state": state} | ({"error": error} if error else {})
        headers = self.desk.headers(self.token, self.over, Nats_TTL=str(self.seconds))
        self.token = await self.desk.write([(self.subject, json.dumps(said).encode(), headers)])

    async def hold(self, work: asyncio.Task[Any]) -> None:
        """Renew the lease until the work is done."""
        while True:
            await asyncio.wait([work], timeout=self.seconds / 3)
            if work.done():
                return
            await self.write("held")


class Agent(Desk):
    """What an agent does beyond reading and writing."""

    working: asyncio.Future[None] | None = None

    async def watch(self, pattern: str, *, history: bool = False) -> dict[str, Any]:
        """Follow a pattern; each memory is an event on stdout."""
        subject = broker_filter(self.board, pattern)
        await self.audit("watch", pattern)
        gone = await self.taken_back(subject) if history else {}
        policy = DeliverPolicy.ALL if history else DeliverPolicy.NEW

        async def arrived(msg: Msg) -> None:
            memory = self.delivered(msg)
            if memory is None or memory["expired"]:
                return
            if memory["revision"] < gone.get(memory["ref"], 0):
                return
            shown = memory if memory["gone"] else await self.filled(memory)
            await self.audit("delivery", shown["ref"], shown["revision"])
            say({"event": "memory", **shown})

        await self.js.subscribe(
            subject, stream=self.stream, ordered_consumer=True, deliver_policy=policy, cb=arrived
        )
        return {}

    async def taken_back(self, subject: str) -> dict[str, int]:
        """The memories whose newest revision is a tombstone, and its revision."""
        past = await self.js.subscribe(
            subject,
            stream=self.stream,
            ordered_consumer=True,
            deliver_policy=NEWEST,
            config=ConsumerConfig(headers_only=True),
        )
        info = await past.consumer_info()
        delivered = info.delivered.consumer_seq if info.delivered else 0
        found: dict[str, int] = {}
        for _ in range((info.num_pending or 0) + delivered):
            memory = self.delivered(await past.next_msg(5))
            if memory and memory["gone"]:
                found[memory["ref"]] = memory["revision"]
        await past.unsubscribe()
        return found

    async def once(
        self,
        name: str,
        inputs: Any,
        result: Any,
        version: str = "1",
        topic: str | None = None,
        access: str = "shared",
        lease: int = 10,
        pause: float = 0,
        fail: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Take part in `once`; the work waits `pause` and returns `result`, or fails."""
        digest = once_key(name, version, access, inputs, [])
        where = f"mem.{self.board}.{access}.{self.name}.once.{name}.{digest}"
        ref, hint = f"*/once.{name}/{digest}", f"hint.{self.board}.{access}.{digest}"
        claim = Lease(self, access, digest, lease)
        heard = asyncio.Event()

        async def on_hint(_: Msg) -> None:
            heard.set()

        made = False
        listening = await self.client.subscribe(hint, cb=on_hint)  # pyright: ignore[reportUnknownMemberType]
        try:
            while (stored := await self.live(ref)) is None:
                if await claim.take():
                    work = asyncio.ensure_future(make(pause, result, fail))
                    made = await self.lead(claim, work, ref, where, hint)
                else:
                    await wait(heard, lease / 2)
        finally:
            await listening.unsubscribe()
        answer = {"key": ref, "made": made, "content": (await self.filled(stored))["content"]}
        if topic is not None:
            fields |= {"content_of": f"{ref}@{stored['revision']}", "cost": stored.get("cost")}
            fields["kind"] = "result" if made else "reuse"
            answer["light"] = (await self.put(topic, access=access, **fields))["ref"]
        return answer

    async def lead(
        self, claim: Lease, work: asyncio.Task[Any], ref: str, where: str, hint: str
    ) -> bool:
        """Do the work under the lease and store it; False when another was first."""
        try:
            await claim.hold(work)
            made = await self.store(ref, where, work.result())
        except Conflict:  # the lease is lost
            work.cancel()
            return False
        except Exception as error:
            await claim.write("failed", f"{type(error).__name__}: {error}")
            await self.client.publish(hint)
            raise
        await claim.write("released")
        await self.client.publish(hint)
        return made

    async def store(self, ref: str, where: str, content: Any) -> bool:
        head = await self.head(ref)
        if head is not None and not head["gone"] and not head["expired"]:
            return False
        body = {"content": content, "kind": "result", "cost": {"seconds": 0.1}}
        headers = self.headers(0 if head is None else head["revision"], self.filter_of(ref))
        with contextlib.suppress(Conflict):
            await self.write([(where, json.dumps(body).encode(), headers)])
            return True
        return False

    async def handle(
        self, handler: str, pattern: str, to: str | None = None, start: str = "new"
    ) -> dict[str, Any]:
        """Handle a pattern: `to` gets contents in capitals; without it requests are answered."""
        durable = f"{self.name}--{handler}"
        subject = broker_filter(self.board, pattern)
        config = {
            "name": durable,
            "durable_name": durable,
            "filter_subject": subject,
            "deliver_policy": start,
            "ack_policy": "explicit",
            "ack_wait": 10_000_000_000,
            "max_deliver": -1,
            "max_ack_pending": 100_000,
        }
        if self.working is not None:  # of an earlier run
            self.working.cancel()
        run = await self.enter(handler, config)
        self.working = asyncio.ensure_future(self.work(durable, handler, run, to))
        return {}

    async def enter(self, handler: str, config: dict[str, Any]) -> int:
        """Join the handler's consumer, or make it; the run that it is."""
        place = f"{self.stream}.{config['name']}"
        record = f"claim.{self.board}.shared.{self.name}.r-{derived(handler)}"
        while True:
            there = json.loads((await self.request(f"$JS.API.CONSUMER.INFO.{place}")).data)
            found = there.get("config")
            if found is not None:
                if any(found[name] != config[name] for name in ("filter_subject", "ack_wait")):
                    raise Refused("its consumer has other settings")
                return int(found["metadata"]["run"])
            last, sequence = await self.record(record)
            run = 1 + (0 if last is None else last["run"])
            made = {**config, "metadata": {"run": str(run)}}
            create = {"stream_name": self.stream, "config": made, "action": "create"}
            with contextlib.suppress(Conflict):
                await self.write(
                    [(record, json.dumps({"run": run}).encode(), self.headers(sequence))]
                )
                api = f"$JS.API.CONSUMER.CREATE.{place}.{config['filter_subject']}"
                answer = json.loads((await self.request(api, create)).data)
                if "error" in answer and answer["error"]["err_code"] not in THERE:
                    raise Refused(str(answer["error"]))

    async def work(self, durable: str, handler: str, run: int, to: str | None) -> None:
        pulled = await self.js.pull_subscribe_bind(consumer=durable, stream=self.stream)
        while True:
            try:
                (msg,) = await pulled.fetch(1, timeout=5)
            except NothingCame:
                continue
            for _ in range(5):
                with contextlib.suppress(Conflict):
                    outcome = await self.handled(msg, handler, run, to)
                    await msg.ack()
                    say({"event": "handled", "outcome": outcome})
                    break
            else:
                await msg.nak(1)

    async def handled(self, msg: Msg, handler: str, run: int, to: str | None) -> str:
        """Handle one delivery (section 7): everything is stored when this returns, or nothing."""
        memory = self.delivered(msg)
        if memory is None or not self.wants(memory, answers=to is None):
            return "unwanted"
        head = await self.head(memory["ref"])
        if head is not None and head["gone"] in ("retired", "forgotten"):
            return "gone"
        memory = await self.filled(memory)
        subject = f"claim.{self.board}.shared.{self.name}.h-{derived(handler, memory['ref'])}"
        record, sequence = await self.record(subject)
        if record is not None and await self.is_done(record["cause"], memory, run):
            return "done before"
        pinned = f"{memory['ref']}@{memory['revision']}"
        cause = f"{pinned} {self.name}--{handler} v1 run{run}"
        if to is None:
            ref = f"*/answers.{memory['topic']}/a-{memory['id']}"
            said = {"content": {"answer": memory["content"], "by": self.name}, "kind": "answer"}
        else:
            ref = f"{self.name}/{to}/{derived(self.name, handler, memory['ref'], 0)}"
            said = {"content": str(memory["content"]).upper()}
        existing = await self.head(ref)
        if existing is not None and to is None:
            return "answered before"
        said |= {name: memory[name] for name in ("session", "user") if name in memory}
        said |= {"sources": [pinned], "hops": memory["hops"] + 1}
        more = {"Bb_Cause": cause, "traceparent": (msg.headers or {}).get("traceparent")}
        outputs = await self.outputs(ref, memory["access"], said, existing, more)
        done = {"cause": cause, "refs": [ref] if to else []}
        headers = self.headers(sequence, Nats_TTL=DAYS_90)
        await self.write([*outputs, (subject, json.dumps(done).encode(), headers)])
        return "stored"

    def wants(self, memory: dict[str, Any], *, answers: bool) -> bool:
        over = memory["expired"] or memory["gone"] or memory["agent"] == self.name
        return not over and (memory["kind"] == "request" or not answers)

    async def is_done(self, cause: str, memory: dict[str, Any], run: int) -> bool:
        """Whether what a record says was done is the same or newer, or a copy under a label."""
        said = re.fullmatch(r"\S+@(\d+) .* run(\d+)", cause)
        revision, ran = (int(said[1]), int(said[2])) if said else (0, 0)
        if (ran, revision) >= (run, memory["revision"]) or ran != run:
            return ran >= run
        asked = self.filter_of(memory["ref"])
        while revision < memory["revision"]:
            found = await self.direct({"seq": revision + 1, "next_by_subj": asked})
            headers = (found.headers if found else None) or {}
            if headers.get("Bb-Gone") != "moved":
                return False
            revision = int(headers["Nats-Sequence"]) + 1  # its copy follows in the same batch
        return revision == memory["revision"]

    async def outputs(
        self,
        ref: str,
        access: str,
        body: dict[str, Any],
        before: dict[str, Any] | None,
        more: dict[str, str | None],
    ) -> list[Outgoing]:
        """The next revision of an output, taken along to the label of its input."""
        if before is None or before["access"] == access:
            expected = 0 if before is None else before["revision"]
            return [self.message(ref, access, body, expected, **more)]
        moved = {**more, "Bb_Gone": "moved", "Nats_TTL": DAYS_90}
        left = self.message(ref, before["access"], None, before["revision"], **moved)
        subject = self.message(ref, access, body, 0)[0]
        last = await self.direct({}, f".{subject}")
        expected = 0 if last is None else int((last.headers or {})["Nats-Sequence"])
        return [left, self.message(ref, access, body, expected, **more)]

    async def ask(self, topic: str, content: Any) -> dict[str, Any]:
        request = await self.put(topic, content, kind="request")
        subject = f"mem.{self.board}.*.*.answers.{topic}.a-{parse(request['ref'])[2]}"
        answers = await self.js.subscribe(
            subject, stream=self.stream, ordered_consumer=True, deliver_policy=NEWEST
        )
        while True:
            memory = self.delivered(await answers.next_msg(10))
            if memory and not memory["gone"] and not memory["expired"]:
                await answers.unsubscribe()
                return await self.filled(memory)


async def make(pause: float, result: Any, fail: str | None) -> Any:
    """The work of `once`, as the command says."""
    await asyncio.sleep(pause)
    if fail is not None:
        raise Refused(fail)
    return result


async def wait(event: asyncio.Event, limit_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), limit_s)
    event.clear()


async def main(url: str, board: str, name: str) -> None:
    client = Client()
    await client.connect(url)
    agent = Agent(client, board, name)
    say({"event": "ready"})
    loop = asyncio.get_running_loop()

    async def run(command: dict[str, Any]) -> None:
        number = command.pop("number")
        try:
            answer = await getattr(agent, command.pop("do"))(**command)
        except (Conflict, Refused, NothingCame) as error:
            answer = {"error": type(error).__name__, "reason": str(error)}
        say({"number": number, **answer})

    running: set[asyncio.Task[None]] = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = asyncio.ensure_future(run(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
