"""Hard ceilings on spending: reserve at admission, settle at the end (GW-19).

    admitted  <=>  estimate <= per request ceiling  and  spent + reserved + estimate <= ceiling   (day and month alike)

Admission reserves the estimate, settling gives the reservation back and adds what the call really cost, so calls in
flight cannot pass a ceiling together by each looking at what was spent before. Overshoot is therefore at most the
sum, over the calls in flight when the ceiling is reached, of (actual - reserved): zero when estimates are upper
bounds.

Money is integer nano-dollars. Days and months are UTC, taken from `now`, and move forward only: a clock that was set
back between two processes does not open a spent day again. A reservation belongs to no day: it counts until it is
settled. The cost is booked on the day on which the call ends. The ledger of one pod knows this pod's spending only;
the policy's ceilings are already divided by `replicas`.
"""

from datetime import UTC, datetime

from sidecar.core.policy import Budget

DAY_S = 86_400


def month_of(day: int) -> int:
    """Months since year 0 of a day since the epoch (UTC)."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return date.year * 12 + date.month - 1


class Ledger:
    """Spending of one route or one service in the present UTC day and month."""

    def __init__(self, now: float, budget: Budget | None = None) -> None:
        self.budget = budget
        self.day = int(now // DAY_S)
        self.month = month_of(self.day)
        self.spent_day_nusd = 0
        self.spent_month_nusd = 0
        self.reserved_nusd = 0

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
        if budget.daily_nusd is not None and not _within(self.spent_day_nusd, asked, budget.daily_nusd):
            return False
        return budget.monthly_nusd is None or _within(self.spent_month_nusd, asked, budget.monthly_nusd)

    def reserve(self, estimate_nusd: int) -> None:
        self.reserved_nusd += estimate_nusd

    def release(self, reserved_nusd: int) -> None:
        """Gives a reservation back; never below zero, so a reservation of an earlier process does no harm."""
        self.reserved_nusd = max(0, self.reserved_nusd - reserved_nusd)

    def charge(self, cost_nusd: int, now: float) -> None:
        """Books a cost on the UTC day of `now`; a cost of an earlier day counts only for its month, if that is this
        one."""
        day = now // DAY_S
        if day > self.day:
            self.roll(now)
        if day == self.day:
            self.spent_day_nusd += cost_nusd
            self.spent_month_nusd += cost_nusd
        elif month_of(int(day)) == self.month:
            self.spent_month_nusd += cost_nusd

    def to_state(self) -> dict[str, int]:
        """What outlives the process. Reservations do not: their calls died with it."""
        return {"day": self.day, "day_nusd": self.spent_day_nusd, "month_nusd": self.spent_month_nusd}

    def restore(self, state: dict[str, int], now: float) -> None:
        """Takes over an earlier process' spending; what belongs to a past day or month is left out.

        A day further ahead than clocks differ was a wrong clock: its spending counts for today, because a ledger that
        waits for a far day would count nothing until then.
        """
        day, today = int(state["day"]), int(now // DAY_S)
        self.day = today if day > today + 1 else day
        self.month = month_of(self.day)
        self.spent_day_nusd = int(state["day_nusd"])
        self.spent_month_nusd = int(state["month_nusd"])
        self.roll(now)


def _within(spent_nusd: int, asked_nusd: int, ceiling_nusd: int) -> bool:
    """A ceiling that is used up admits nothing more, not even calls that seem to cost nothing."""
    return spent_nusd < ceiling_nusd and spent_nusd + asked_nusd <= ceiling_nusd
