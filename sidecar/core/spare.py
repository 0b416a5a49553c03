"""Paced samples: how often a finished call gets a call of our own beside it, and what such calls may cost.

A judge grades and a shadow repeats some of the calls that clients made. Three limits hold such calls down, and each can
refuse one:

**Sampling.** A call is taken with probability

    p = min(1, sample x (1 + (BOOST - 1) x SHY / (SHY + labels)))

where `labels` counts what is known of its arm: a new arm is looked at BOOST times as often, one of SHY labels halfway
between. p depends on the arm and on how many labels it had, never on the call or its answer, so the mean of an arm's
sampled scores is unbiased for the arm's mean; p is known, and is recorded with each errand.

**Money.** A bucket of nano-dollars (the token bucket of RFC 2697 with one rate) fills with `daily / 86,400` a second and
holds `daily / PARTS`. A call is admitted while the bucket is not empty; its estimate is taken out at once and replaced
by its cost at the end. So the day's money is spread over the day, and a process that restarts (it remembers nothing)
has a PARTS-th of a day to spend at most. Beside the bucket a ceiling holds for the UTC day:

    admitted  =>  spent + reserved + estimate <= daily

so that a day is overspent by at most the sum over calls in flight of (cost - estimate).

**Calls.** A second bucket holds one minute's calls.

What it does not know: what a call will cost (the caller estimates), and what other pods spend (the policy's figures are
divided by `replicas` already). A call whose cost cannot be estimated is the caller's to refuse.
"""

DAY_S = 86_400
BOOST = 4.0  # 1..20; larger spends more of the money on what is new, smaller leaves a new arm unjudged for longer
SHY = 50.0  # 10..1000 labels; smaller stops looking early, larger spends on arms that are known well
PARTS = 24.0  # 4..200; larger spreads the day more evenly and makes a burst of calls, or of restarts, cheaper


def chance(sample: float, labels: int) -> float:
    """The probability in [0, 1] with which a call of an arm with so many `labels` is taken."""
    return min(1.0, sample * (1.0 + (BOOST - 1.0) * SHY / (SHY + max(0, labels))))


class Allowance:
    """What the calls of one kind, on one route, may still cost. `now` is seconds and never goes back."""

    def __init__(self, daily_nusd: int, per_minute: int, now: float) -> None:
        self.daily_nusd = daily_nusd
        self.per_minute = per_minute
        self.day = int(now // DAY_S)
        self.spent_nusd = 0  # on this UTC day
        self.reserved_nusd = 0  # by calls that are not over
        self._level_nusd = daily_nusd / PARTS
        self._calls = float(per_minute)
        self._at = now

    def admits(self, estimate_nusd: int, now: float) -> bool:
        """Whether one more call of this estimated cost may be made; when it may, the estimate is reserved."""
        self._fill(now)
        over = self.spent_nusd + self.reserved_nusd + estimate_nusd > self.daily_nusd
        if over or self._level_nusd <= 0.0 or self._calls < 1.0:
            return False
        self._calls -= 1.0
        self._level_nusd -= estimate_nusd
        self.reserved_nusd += estimate_nusd
        return True

    def book(self, estimate_nusd: int, cost_nusd: int, now: float) -> None:
        """An admitted call is over: its cost takes the place of its estimate."""
        self._fill(now)
        self.reserved_nusd -= estimate_nusd
        self.spent_nusd += cost_nusd
        self._level_nusd = min(self.daily_nusd / PARTS, self._level_nusd + estimate_nusd - cost_nusd)

    def change(self, daily_nusd: int, per_minute: int) -> None:
        """New limits of a new policy: what was spent and reserved stays, and no bucket is filled by it."""
        self.daily_nusd, self.per_minute = daily_nusd, per_minute
        self._level_nusd = min(self._level_nusd, daily_nusd / PARTS)
        self._calls = min(self._calls, float(per_minute))

    def _fill(self, now: float) -> None:
        passed_s = max(0.0, now - self._at)
        self._at = max(self._at, now)
        most = self.daily_nusd / PARTS
        self._level_nusd = min(most, self._level_nusd + passed_s * self.daily_nusd / DAY_S)
        self._calls = min(float(self.per_minute), self._calls + passed_s * self.per_minute / 60.0)
        day = int(now // DAY_S)
        if day > self.day:
            self.day, self.spent_nusd = day, 0
