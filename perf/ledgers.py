"""How fast a ledger takes up reads, and what they cost: `python -m perf.ledgers`.

One agent reads as fast as it can (500 requests in flight) at a broker with credentials,
while a ledger of this process takes up what the broker records.
"""

import argparse
import tempfile
import time
from pathlib import Path

import anyio

from blackboard.access.identity import PREFIX
from blackboard.jetstream import Connection, Outgoing
from blackboard.ledger import Ledger, load_key
from blackboard.ledger.streams import ledger_stream, reads_stream
from blackboard.ledger.verify import verify
from tests.credentials import BOARD, connected, people
from tests.ledger_bench import make_streams
from tests.servers import Server
from tests.waiting import wait_until

IN_FLIGHT = 500


async def run(reads: int, distinct: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        known = people(Path(folder))
        steward_id, alice_id = known.identity("steward"), known.identity("alice")
        server = Server(Path(folder) / "server", extra=known.configuration)
        server.start()
        try:
            async with (
                connected(server, steward_id) as steward,
                connected(server, steward_id) as writer,
                connected(server, alice_id) as alice,
            ):
                await make_streams(steward)
                ledger = Ledger(writer, BOARD, load_key(Path(folder) / "board.key"))
                async with anyio.create_task_group() as group:
                    group.start_soon(ledger.run)
                    await measure(steward, alice, ledger, reads, distinct)
                    group.cancel_scope.cancel()
                began = time.perf_counter()
                proof = await verify(steward, BOARD)
                print(
                    f"verify: {proof.records} records, {proof.reads} reads, "
                    f"{len(proof.findings)} findings in {time.perf_counter() - began:.2f} s"
                )
        finally:
            server.kill()


async def measure(
    steward: Connection, alice: Connection, ledger: Ledger, reads: int, distinct: int
) -> None:
    for number in range(20):
        subject = f"mem.{BOARD}.shared.steward.notes.{number:032x}"
        await steward.publish(Outgoing(subject, b"x" * 200))
    limit = anyio.Semaphore(IN_FLIGHT)

    async def read(number: int) -> None:
        what = f"MEM_{BOARD}.mem.{BOARD}.shared.steward.notes.{number % distinct:032x}"
        try:
            await alice.request(f"{PREFIX}rd.{BOARD}.alice.{what}", timeout_s=30)
        finally:
            limit.release()

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(reads):
            await limit.acquire()
            group.start_soon(read, number)
    asked = time.perf_counter() - began
    await wait_until(lambda: covered(ledger) >= reads, "all reads are in the ledger", 120)
    done = time.perf_counter() - began
    for stream in (reads_stream(BOARD), ledger_stream(BOARD)):
        info = await steward.stream(stream)
        if info is not None:
            size = info.state.bytes / reads
            print(f"{stream}: {info.state.messages} messages, {size:.1f} bytes per read")
    print(
        f"{reads} reads of {distinct} memories: asked in {asked:.2f} s ({reads / asked:.0f}/s), "
        f"all in the ledger after {done:.2f} s ({reads / done:.0f}/s)"
    )


def covered(ledger: Ledger) -> int:
    head = ledger.head
    position = None if head is None else head.positions.get("reads")
    return 0 if position is None else position.sequence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=500)
    arguments = parser.parse_args()
    anyio.run(run, arguments.reads, arguments.distinct)


if __name__ == "__main__":
    main()
