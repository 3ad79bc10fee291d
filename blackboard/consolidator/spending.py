"""What asking the model has cost a board, and may still cost: one record for all replicas.

What a call may cost at most is taken from the budget before it is made, and given back, but for
what it did cost, behind it. So however many replicas ask, and wherever one is killed, the budget is
not exceeded; a call that was killed counts as if it had cost the most.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio
import msgspec

from blackboard import clock
from blackboard.consolidator.policy import Budget
from blackboard.errors import BlackboardError, ConflictError, ModelBusyError
from blackboard.log import Log
from blackboard.subjects import SHARED, claim_subject

RECORD = "b-model"
KEPT_S = 2 * 24 * 3600.0
END_S = 5.0


class SpentError(ModelBusyError):
    """The budget is spent; what waits may be condensed without the model, or later."""


class Ledger(msgspec.Struct, omit_defaults=True):
    """What was spent, in the hour, the minute and the day that are named."""

    hour: str = ""
    tokens: int = 0
    minute: str = ""
    calls: int = 0
    day: str = ""
    money: float = 0.0

    def at(self, moment: datetime) -> "Ledger":
        """The same, with what is over set to nothing."""
        day, hour, minute = (moment.strftime(form) for form in ("%F", "%FT%H", "%FT%H:%M"))
        return Ledger(
            hour,
            self.tokens if self.hour == hour else 0,
            minute,
            self.calls if self.minute == minute else 0,
            day,
            self.money if self.day == day else 0.0,
        )


class Spent:
    """What one call took; until it is noted, the most that it may."""

    def __init__(self) -> None:
        self.noted: tuple[int, int, int] | None = None

    def note(self, tokens_in: int, tokens_out: int, calls: int) -> None:
        """Say what it took."""
        self.noted = tokens_in, tokens_out, calls


class Spending:
    """The budget of a board.

    Args:
        log: Where the record lies, beside the board's memories.
        budget: The limits.
        calls: Requests that one call may make, retries included.
    """

    def __init__(self, log: Log, budget: Budget, *, calls: int = 1) -> None:
        self._log = log
        self._budget = budget
        self._calls = calls
        self._subject = claim_subject(log.board, SHARED, log.agent, RECORD)

    async def left(self) -> str:
        """What may still be spent, in words."""
        ledger, _ = await self._read()
        budget = self._budget
        parts: list[str] = []
        if budget.tokens_per_hour is not None:
            parts.append(f"{budget.tokens_per_hour - ledger.tokens} tokens this hour")
        if budget.calls_per_minute is not None:
            parts.append(f"{budget.calls_per_minute - ledger.calls} calls this minute")
        if budget.money_per_day is not None:
            parts.append(f"{budget.money_per_day - ledger.money:.2f} today")
        return ", ".join(parts) or "no limit"

    @asynccontextmanager
    async def allowed(self, tokens_in: int, tokens_out: int) -> AsyncGenerator[Spent]:
        """Take what a call may cost at most for the block, and give back what it did not.

        Raises:
            SpentError: There is not so much left; says of what, and until when.
        """
        most = (tokens_in + tokens_out) * self._calls
        money = self._budget.price(tokens_in, tokens_out) * self._calls
        taken = await self._change(most, self._calls, money, check=True)
        spent = Spent()
        try:
            yield spent
        finally:
            if spent.noted is not None:
                used_in, used_out, calls = spent.noted
                back = self._budget.price(used_in, used_out) - money
                with anyio.move_on_after(END_S, shield=True):
                    await self._give_back(
                        taken, used_in + used_out - most, calls - self._calls, back
                    )

    async def _give_back(self, taken: Ledger, tokens: int, calls: int, money: float) -> None:
        try:
            await self._change(tokens, calls, money, check=False, since=taken)
        except BlackboardError:
            return  # it stays taken, until its hour is over

    async def _change(
        self, tokens: int, calls: int, money: float, *, check: bool, since: Ledger | None = None
    ) -> Ledger:
        while True:
            ledger, sequence = await self._read()
            if since is None or ledger.hour == since.hour:
                ledger.tokens = max(0, ledger.tokens + tokens)
            if since is None or ledger.day == since.day:
                ledger.money = max(0.0, ledger.money + money)
            if since is None or ledger.minute == since.minute:
                ledger.calls = max(0, ledger.calls + calls)
            if check:
                self._check(ledger)
            message = self._log.record(self._subject, ledger, expected=sequence, ttl_s=KEPT_S)
            try:
                await self._log.send([message])
            except ConflictError:
                continue
            return ledger

    async def _read(self) -> tuple[Ledger, int]:
        record, sequence = await self._log.record_at(self._subject, Ledger)
        return (record or Ledger()).at(clock.now()), sequence

    def _check(self, ledger: Ledger) -> None:
        budget, moment = self._budget, clock.now()
        if budget.calls_per_minute is not None and ledger.calls > budget.calls_per_minute:
            wait = 60 - moment.second
            raise ModelBusyError(
                f"{budget.calls_per_minute} calls a minute are made; the next in {wait} s",
                after_s=float(wait),
            )
        if budget.tokens_per_hour is not None and ledger.tokens > budget.tokens_per_hour:
            until = (moment + timedelta(hours=1)).strftime("%H:00")
            raise SpentError(
                f"the budget of {budget.tokens_per_hour} tokens an hour is spent until {until} UTC"
            )
        if budget.money_per_day is not None and ledger.money > budget.money_per_day:
            raise SpentError(
                f"the budget of {budget.money_per_day} a day is spent until midnight UTC"
            )
