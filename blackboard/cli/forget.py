"""Commands that forget: what would go, the order, its receipt, and whether that holds."""

import sys
from pathlib import Path

import anyio.to_thread
from cyclopts import App

from blackboard.board import Blackboard
from blackboard.cli.output import clean, fields, say, say_json, table, warn, when
from blackboard.cli.place import HERE, WRITE_HERE, Place, WritingPlace, opened
from blackboard.cli.search import ANY, Choice
from blackboard.codec import to_json
from blackboard.erasure import verify
from blackboard.errors import InvalidError, NotFoundError
from blackboard.oblivion import Oblivion, Plan
from blackboard.receipts import Order, Receipt
from blackboard.subjects import Ref

SHOWN = 20

forget = App(
    name="forget",
    help_epilogue=(
        "Example:\n\n"
        "    blackboard forget --user customer-42 --dry-run\n"
        "    blackboard forget --user customer-42 --reason 'erasure request 881'\n"
        "    blackboard forget verify 0199… --files /var/lib/nats/jetstream"
    ),
)


@forget.default
async def order(
    *reference: str,
    reason: str = "",
    dry_run: bool = False,
    yes: bool = False,
    timeout: float = 60.0,
    choice: Choice = ANY,
    place: WritingPlace = WRITE_HERE,
) -> int:
    """Take memories away for good, with all that was made from them.

    Args:
        reference: These memories.
        reason: Kept in the receipt; name no person in it.
        dry_run: Only list what would go, and why.
        yes: Do not ask, also when nothing matches, or everything does.
        timeout: Seconds to wait for the steward.
        choice: Which memories; of these and the references together.
        place: The board.
    """
    refs = [Ref.parse(text) for text in reference]
    async with opened(place, agent=place.agent) as board:
        wanted = await board.forget_order(refs, reason=reason, **choice.parsed())
        oblivion = Oblivion(board.log)
        if not yes or dry_run:
            plan = await oblivion.plan(wanted)
            if dry_run:
                _show_plan(plan, place)
                return 0
            await _confirmed(plan)
        receipt = await _done(board, wanted, timeout)
    _show(receipt, place)
    return 0 if receipt.state == "complete" else 3


async def _done(board: Blackboard, wanted: Order, timeout: float) -> Receipt:
    oblivion = Oblivion(board.log)
    await oblivion.place(wanted)
    board.journal.audit("order", wanted.id)
    return await oblivion.wait(wanted.id, timeout, lambda one: one.removed is not None)


async def _confirmed(plan: Plan) -> None:
    """Ask back, where there is somebody to answer.

    Raises:
        NotFoundError: Nothing matches.
        InvalidError: Nobody said yes.
    """
    if not plan.memories:
        raise NotFoundError(
            f"none of {plan.scanned} revisions matches, so nothing was done; "
            "--yes gives a receipt that says so"
        )
    count = len(plan.memories)
    what = f"all {count} memories of the board" if plan.everything else f"{count} memories"
    if not sys.stdin.isatty():
        if plan.everything:
            raise InvalidError(f"that is {what}; nothing was done: repeat it with --yes if meant")
        return
    warn(f"{what} will be gone for good, {count - plan.selected} of them made from the others.")
    answer = await anyio.to_thread.run_sync(input, "Forget them? Type yes: ")
    if answer.strip() != "yes":
        raise InvalidError("nothing was done")


@forget.command(name="list", help_epilogue="Example:\n\n    blackboard forget list --json")
async def show(*, place: Place = HERE) -> None:
    """List the receipts of what was forgotten.

    Args:
        place: The board.
    """
    async with opened(place) as board:
        receipts = await Oblivion(board.log).receipts()
    if place.as_json:
        say_json([to_json(receipt) for receipt in receipts])
    elif not receipts:
        say("nothing was forgotten")
    else:
        rows = [
            (one.order, when(one.asked), one.agent, one.state, one.memories, one.reason)
            for one in receipts
        ]
        table(("receipt", "asked", "by", "state", "memories", "reason"), rows, right=("memories",))


@forget.command(
    name="verify",
    help_epilogue="Example:\n\n    blackboard forget verify 4bf92f35… --files /srv/nats",
)
async def check(receipt: str, /, *, files: tuple[Path, ...] = (), place: Place = HERE) -> int:
    """Hold a receipt against the board and, on their machines, against its servers' files.

    Args:
        receipt: Its id, as `forget` and `forget list` show it.
        files: A directory to look through, like JetStream's store_dir or a backup.
        place: The board.
    """
    async with opened(place) as board:
        found = await board.receipt(receipt)
        if found is None:
            raise NotFoundError(
                f"no receipt {receipt!r} on board {board.name!r}; see `blackboard forget list`"
            )
        findings = await verify(board.log, found, files)
    good = all(finding.clean for finding in findings)
    if place.as_json:
        say_json({"receipt": to_json(found), "findings": to_json(findings), "clean": good})
    else:
        _show(found, place)
        say()
        for finding in findings:
            mark = "ok" if finding.clean else "NO"
            say(f"{mark}  {finding.name}: {clean(finding.text)}")
    return 0 if good and found.state == "complete" else 1


def _show_plan(plan: Plan, place: Place) -> None:
    if place.as_json:
        say_json(
            {
                "memories": [{"ref": str(one.ref), "why": one.why} for one in plan.memories],
                "scanned": plan.scanned,
                "everything": plan.everything,
            }
        )
        return
    for one in plan.memories:
        say(f"{one.ref}  {one.why}")
    rest = len(plan.memories) - plan.selected
    say(f"{len(plan.memories)} memories would go: {plan.selected} selected, {rest} made from them")
    if plan.everything:
        say("that is everything on the board")


def _show(receipt: Receipt, place: Place) -> None:
    if place.as_json:
        say_json(to_json(receipt))
        return
    say(f"receipt {receipt.order}: {receipt.state}")
    fields(
        {
            "asked": receipt.asked,
            "by": receipt.agent,
            "reason": receipt.reason,
            "selected by": " ".join(receipt.selectors),
            "memories": receipt.memories,
            "removed": receipt.removed,
            "completed": receipt.completed,
            "signed by": receipt.key,
        }
    )
    for store in receipt.stores[:SHOWN]:
        ranges = " ".join(
            f"{first}-{last}" if last > first else str(first) for first, last in store.ranges
        )
        say(clean(f"  {store.name}: {store.removed} {store.what} {ranges[:200]} ({store.how})"))
    for text in (*receipt.elsewhere, *receipt.notes):
        say(clean(f"  note: {text}"))
