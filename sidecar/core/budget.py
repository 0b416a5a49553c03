"""Hard ceilings on spending: reserve at admission, settle at the end (GW-19).

    admitted  <=>  estimate <= per request ceiling  and  spent + reserved + estimate <= ceiling   (day and month alike)

Admission reserves the estimate, settling gives the reservation back and adds what the call really cost, so calls in
flight cannot pass a ceiling together by each looking at what was spent before. Overshoot is therefore at most the
sum, over the calls in flight when the ceiling is reached, of (actual - reserved): zero when estimates are upper
bounds.

Two ceilings pace instead of waiting for the end: `window_nusd` is what any `window_s` seconds may cost (hard, like day
and month), `mean_request_nusd` what a call may cost on average (it takes dear arms out of the choice and refuses
nothing: the cheapest arm may always serve). `allowance` is what the next calls may cost on average so that no ceiling
is met before its time: what a day or window has left, over the calls that are to be expected in it.

Money is integer nano-dollars. Days and months are UTC, taken from `now`, and move forward only: a clock that was set
back between two processes does not open a spent day again. A reservation belongs to no day: it counts until it is
settled. The cost is booked on the day on which the call ends. The ledger of one pod knows this pod's spending only;
the policy's ceilings are already divided by `replicas`. Where several processes of one pod spend from it, each has a
`core.lease` in the place of the ceilings of day, month and window.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import inf
from typing import Any, Final

from sidecar.core.constraint import Savings
from sidecar.core.lease import Lease
from sidecar.core.policy import Budget
from sidecar.core.types import MOST_SUM
from sidecar.core.window import Sums, Window

DAY_S = 86_400
RATE_WINDOW_S: Final = 3_600.0  # 600..86,400: over which calls are counted to tell how many will come
_SLOTS: Final = 60  # 10..600 of a window; fewer count what is up to a slot too old, more cost a look at each
MIN_RATE_CALLS: Final = 32  # 8..1,000 calls in it; fewer say nothing about the rest of the day


def month_of(day: int) -> int:
    """Months since year 0 of a day since the epoch (UTC)."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return date.year * 12 + date.month - 1


class Ledger:
    """Spending of one route or one service in the present UTC day and month."""

    def __init__(self, now: float, budget: Budget | None = None) -> None:
        self.budget = budget
        self.lease: Lease | None = None  # where others spend from the same budget
        self.day = int(now // DAY_S)
        self.month = month_of(self.day)
        self.spent_day_nusd = 0
        self.spent_month_nusd = 0
        self.reserved_nusd = 0
        self.flying = 0  # calls that have reserved something
        self.savings = Savings()
        self.calls = Window(RATE_WINDOW_S, quantiles=False)
        self.window = _window(budget.window_s) if budget is not None else self.calls
        self._began = now
        self._told = (self.day, 0, self.month, 0)  # what was spent, as `told` or taken over last
        self._told_slots: Sums = {}

    def obey(self, budget: Budget | None) -> None:
        """Puts another budget in force over what was spent so far; a window of another length begins anew."""
        if budget is not None:
            window = _window(budget.window_s)
            if self.window is self.calls or window.window_s != self.window.window_s:
                self.window, self._told_slots = window, {}
        self.budget = budget

    def roll(self, now: float) -> None:
        """Begins a new day (and month) when `now` is in one."""
        day = int(now // DAY_S)
        if day <= self.day:
            return
        self.day = day
        self.spent_day_nusd = 0
        month = month_of(day)
        if month != self.month:
            self.month = month
            self.spent_month_nusd = 0

    def fits(self, estimate_nusd: int, now: float) -> bool:
        """Whether a call of this estimated cost may be admitted. Without a budget everything fits."""
        self.roll(now)
        budget = self.budget
        if budget is None:
            return True
        if budget.per_request_nusd is not None and estimate_nusd > budget.per_request_nusd:
            return False
        asked = self.reserved_nusd + estimate_nusd
        if self.lease is not None:
            return _within(self.lease.spent_nusd, asked, self.lease.total_nusd)
        if budget.daily_nusd is not None and not _within(self.spent_day_nusd, asked, budget.daily_nusd):
            return False
        if budget.window_nusd is not None and not _within(int(self.window.total(now)), asked, budget.window_nusd):
            return False
        return budget.monthly_nusd is None or _within(self.spent_month_nusd, asked, budget.monthly_nusd)

    def left(self, now: float) -> int | None:
        """What may be spent before the first ceiling of day, month or window is met, below 0 beyond it; None without one."""
        self.roll(now)
        budget, found = self.budget, list[int]()
        if budget is not None and budget.daily_nusd is not None:
            found.append(budget.daily_nusd - self.spent_day_nusd)
        if budget is not None and budget.monthly_nusd is not None:
            found.append(budget.monthly_nusd - self.spent_month_nusd)
        if budget is not None and budget.window_nusd is not None:
            found.append(budget.window_nusd - int(self.window.total(now)))
        return min(found, default=None)

    def reserve(self, estimate_nusd: int, now: float) -> None:
        self.reserved_nusd += estimate_nusd
        self.flying += estimate_nusd > 0
        self.calls.add(now)

    def balance(self) -> float:
        """What the next call may cost at most under the ceiling on the mean; infinite without one. A call in flight takes
        only what it reserved beyond the ceiling: it is one of the calls that the mean counts."""
        ceiling = None if self.budget is None else self.budget.mean_request_nusd
        if ceiling is None:
            return inf
        return self.savings.balance(ceiling, max(0, self.reserved_nusd - ceiling * self.flying))

    def allowance(self, now: float) -> float:
        """What the next calls may cost on average; infinite where no ceiling asks for it or too little is known."""
        budget, found = self.budget, inf
        if budget is None:
            return found
        if self.lease is not None:
            return self.lease.pace_nusd
        if budget.mean_request_nusd is not None:
            found = self.savings.allowance(budget.mean_request_nusd)
        calls = self.calls.count(now)
        if calls < MIN_RATE_CALLS:
            return found
        rate = calls / min(RATE_WINDOW_S, max(now - self._began, 1.0))
        if budget.daily_nusd is not None:
            left = budget.daily_nusd - self.spent_day_nusd - self.reserved_nusd
            found = min(found, max(0.0, left) / (rate * max(1.0, DAY_S - now % DAY_S)))
        if budget.window_nusd is not None:
            found = min(found, budget.window_nusd / (rate * budget.window_s))
        return found

    def release(self, reserved_nusd: int) -> None:
        """Gives a reservation back; never below zero, so a reservation of an earlier process does no harm."""
        self.reserved_nusd = max(0, self.reserved_nusd - reserved_nusd)
        self.flying = max(0, self.flying - (reserved_nusd > 0))

    def charge(self, cost_nusd: int, now: float, *, call: bool = True) -> None:
        """Books a cost on the UTC day of `now`; a cost of an earlier day counts only for its month, if that is this
        one. Without `call` it is a cost beside a call, which is paid for and is no call that a mean may count."""
        day = now // DAY_S
        if day > self.day:
            self.roll(now)
        budget = self.budget
        if self.lease is not None:
            self.lease.spent_nusd = min(MOST_SUM, self.lease.spent_nusd + cost_nusd)
        if budget is not None and budget.mean_request_nusd is not None:
            self.savings.add(cost_nusd, budget.mean_request_nusd, calls=int(call))
        if budget is not None and budget.window_nusd is not None:
            self.window.add(now, cost_nusd)
        if day == self.day:
            self.spent_day_nusd = min(MOST_SUM, self.spent_day_nusd + cost_nusd)
            self.spent_month_nusd = min(MOST_SUM, self.spent_month_nusd + cost_nusd)
        elif month_of(int(day)) == self.month:
            self.spent_month_nusd = min(MOST_SUM, self.spent_month_nusd + cost_nusd)

    def to_state(self) -> dict[str, Any]:
        """What outlives the process. Reservations do not: their calls died with it."""
        budget = self.budget
        bounded = None if budget is None or budget.window_nusd is None else budget.window_s
        return {
            **({} if bounded is None else {"window": [bounded, self.window.to_state()]}),
            "day": self.day,
            "day_nusd": self.spent_day_nusd,
            "month_nusd": self.spent_month_nusd,
            "saved_nusd": self.savings.nusd,
        }

    def told(self) -> None:
        """What was spent so far is in the spending that is taken over next."""
        self._told = (self.day, self.spent_day_nusd, self.month, self.spent_month_nusd)
        self._told_slots = self.window.sums()

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Takes over another process' spending; what belongs to a past day or month is left out. What was spent here, and
        is not `told`, counts beside it: that process may have ended after this one began.

        A day further ahead than clocks differ was a wrong clock: its spending counts for today, because a ledger that
        waits for a far day would count nothing until then.
        """
        self.roll(now)
        told_day, told_day_nusd, told_month, told_month_nusd = self._told
        own_day_nusd = self.spent_day_nusd - (told_day_nusd if told_day == self.day else 0)
        own_month_nusd = self.spent_month_nusd - (told_month_nusd if told_month == self.month else 0)
        day, today = int(state["day"]), int(now // DAY_S)
        self.day = today if day > today + 1 else day
        self.month = month_of(self.day)
        self.spent_day_nusd = int(state["day_nusd"])
        self.spent_month_nusd = int(state["month_nusd"])
        self.savings.nusd = float(state.get("saved_nusd", 0.0))
        self.roll(now)
        self._told = (self.day, self.spent_day_nusd, self.month, self.spent_month_nusd)
        self.spent_day_nusd = min(MOST_SUM, self.spent_day_nusd + own_day_nusd)
        self.spent_month_nusd = min(MOST_SUM, self.spent_month_nusd + own_month_nusd)
        match state.get("window"):
            case [float() | int() as window_s, list(kept)] if (
                self.window is not self.calls and _window(window_s).window_s == self.window.window_s
            ):
                own = _without(self.window.sums(), self._told_slots)
                self.window.restore(kept, now)
                self._told_slots = self.window.sums()
                self.window.put(own)
            case _:
                pass


def _window(window_s: float) -> Window:
    """All that the last `window_s` seconds touch: with the slot that they leave they touch one more than they have, and
    what was spent at its end is not older than they are."""
    return Window(window_s * (_SLOTS + 1) / _SLOTS, _SLOTS + 1, quantiles=False)


def _without(sums: Sums, told: Sums) -> Sums:
    """What these slots have beyond those."""
    own = {}
    for index, (count, total) in sums.items():
        counted, summed = told.get(index, (0, 0.0))
        own[index] = (count - counted, total - summed)
    return own


def _within(spent_nusd: int, asked_nusd: int, ceiling_nusd: int) -> bool:
    """A ceiling that is used up admits nothing more, not even calls that seem to cost nothing."""
    return spent_nusd < ceiling_nusd and spent_nusd + asked_nusd <= ceiling_nusd
