"""What a call on an arm will cost: the expectation that the selector minimises and the estimate that a budget reserves.

Prices are known, not learnt: with a price the expected cost of an arm is

    E[cost] = input price x mean input tokens of the route + output price x mean output tokens of the arm

plus the price of the arm's mean seconds where time is paid; the arm's mean is shrunk to the route's with the weight
of SHRINK calls, so that a new arm is judged by its price from its first call on and a price change acts at once.
Without a price it is the mean of the costs that were observed.

The estimate reserved at admission is input estimate + min(max_tokens, p99 of the arm's output) at the price, or the
p99 of the arm's observed costs without one. Fewer than ENOUGH answers have no 99th percentile: until then max_tokens
is reserved, or where nobody says how many the larger of DEFAULT_OUTPUT_TOKENS and the longest answer. Percentiles
come from a histogram with RESOLUTION buckets per doubling, upper bucket edges (so at most 2 ** (1 / RESOLUTION) - 1 =
9 % too high, never too low), halved every HALVE_AFTER calls. An arm that has neither price nor history reserves
nothing, so its first calls may exceed a ceiling by what they cost.
"""

from math import log2

from sidecar.core.cost import MOST_NUSD, RateCard, Rates
from sidecar.core.types import MOST_SUM

BYTES_PER_TOKEN = 3.0  # 2..6; English text has about 4: fewer bytes a token reserves more, which is the safe side
SHRINK = 5.0  # 1..50 calls; smaller trusts one long answer, larger hides an arm's verbosity
RESOLUTION = 8
BUCKETS = 48 * RESOLUTION  # covers 2 ** 48: 281,000 dollars in nano-dollars
HALVE_AFTER = 4_096  # so that old traffic fades; smaller makes the 99th percentile ragged
# 100..1000 answers; fewer: the "99th percentile" is the longest of a few, and one short answer opens budgets
ENOUGH = 100
DEFAULT_OUTPUT_TOKENS = 1_024  # reserved when neither max_tokens nor a history exists
DEFAULT_SECONDS = 5.0  # of a call, before any was seen
FUSD_PER_NUSD = 1_000_000


class FadingHistogram:
    """Counts of positive numbers in logarithmic buckets, fading."""

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total = 0
        self._p99: float | None = None

    def add(self, value: float) -> None:
        self.counts[min(BUCKETS - 1, int(RESOLUTION * log2(value + 1.0)))] += 1
        self.total += 1
        if self.total >= HALVE_AFTER:
            self.counts = [count // 2 for count in self.counts]
            self.total = sum(self.counts)
        if self.total & 31 == 0 or self.total < 32:  # 1 % of 32 calls is no call: until then every call may matter
            self._p99 = None

    def p99(self) -> float | None:
        """Upper edge of the bucket that holds the 99th percentile; None without values."""
        if self._p99 is None and self.total:
            need, seen, index = 0.99 * self.total, 0, -1
            while seen < need:
                index += 1
                seen += self.counts[index]
            self._p99 = 2.0 ** ((index + 1) / RESOLUTION) - 1.0
        return self._p99


class ArmSpend:
    """Token and cost history of one arm, and its price."""

    def __init__(self, price: RateCard | None = None) -> None:
        self.price = price
        self.calls = 0  # with known usage
        self.output_tokens = 0
        self.timed = 0  # with known duration
        self.seconds = 0.0
        self.costed = 0  # with known cost
        self.cost_nusd = 0
        self.outputs = FadingHistogram()
        self.costs = FadingHistogram()

    def reserve_nusd(self, input_bytes: int, max_tokens: int | None) -> int:
        """Estimated cost of one call, rounded up: what admission reserves."""
        price = self.price
        if price is None:
            p99 = self.costs.p99()
            return 0 if p99 is None else int(p99) + 1
        if max_tokens is not None and max_tokens < 0:
            # servers of one's own take -1 for "no limit"; a reservation below 0 would open the budget
            max_tokens = None
        output = self.outputs.p99() or 0.0
        if self.outputs.total < ENOUGH:
            output = max(output, DEFAULT_OUTPUT_TOKENS) if max_tokens is None else max_tokens
        elif max_tokens is not None:
            output = min(output, max_tokens)
        estimate = -int(-_fusd(price, input_bytes / BYTES_PER_TOKEN, output) // FUSD_PER_NUSD)
        estimate = min(estimate, MOST_NUSD)  # some clients say "no limit" by the largest number that they have
        second = price.sizes[-1][1].second
        if not second:
            return estimate
        least = DEFAULT_SECONDS * second / FUSD_PER_NUSD if self.costs.total < ENOUGH else 0.0
        return max(estimate, int(max(least, self.costs.p99() or 0.0)))

    def cached_nusd(self, input_bytes: int) -> float:
        """What it saves to find this much of a prompt in the arm's cache; 0 without a price for that."""
        if self.price is None:
            return 0.0
        rates = self.price.sizes[-1][1]
        return max(0, rates.input - rates.cached) * input_bytes / BYTES_PER_TOKEN / FUSD_PER_NUSD


class Spend:
    """The spending picture of one route: its arms' histories over a common mean of input tokens."""

    def __init__(self, reserving: bool = True) -> None:
        """`reserving`: keep the histograms that estimates need (only a route with a budget reserves)."""
        self.reserving = reserving
        self.arms: dict[str, ArmSpend] = {}
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0

    def observe(
        self,
        arm: str,
        input_tokens: int | None,
        output_tokens: int | None,
        cost_nusd: int | None,
        seconds: float | None = None,
    ) -> None:
        """Learns from one finished call; unknown parts are left out."""
        spend = self.arms[arm]
        if seconds is not None:
            spend.timed += 1
            spend.seconds += seconds
        if input_tokens is not None and output_tokens is not None:
            self.calls += 1
            self.input_tokens = min(MOST_SUM, self.input_tokens + input_tokens)
            self.output_tokens = min(MOST_SUM, self.output_tokens + output_tokens)
            spend.calls += 1
            spend.output_tokens = min(MOST_SUM, spend.output_tokens + output_tokens)
            if self.reserving:
                spend.outputs.add(output_tokens)
        if cost_nusd is not None:
            spend.costed += 1
            spend.cost_nusd = min(MOST_SUM, spend.cost_nusd + cost_nusd)
            if self.reserving:
                spend.costs.add(cost_nusd)

    def expected_nusd(self, arm: str) -> float | None:
        """Expected cost of one call on `arm`; None when neither price nor history tells."""
        spend = self.arms[arm]
        if spend.price is None:
            return spend.cost_nusd / spend.costed if spend.costed else None
        time = spend.price.sizes[-1][1].second * self._seconds(spend)
        if self.calls == 0:
            return (_fusd(spend.price, DEFAULT_OUTPUT_TOKENS, DEFAULT_OUTPUT_TOKENS) + time) / FUSD_PER_NUSD
        route_output = self.output_tokens / self.calls
        output = (spend.output_tokens + SHRINK * route_output) / (spend.calls + SHRINK)
        return (_fusd(spend.price, self.input_tokens / self.calls, output) + time) / FUSD_PER_NUSD

    def _seconds(self, spend: ArmSpend) -> float:
        timed = sum(one.timed for one in self.arms.values())
        mean = sum(one.seconds for one in self.arms.values()) / timed if timed else DEFAULT_SECONDS
        return (spend.seconds + SHRINK * mean) / (spend.timed + SHRINK)

    def to_state(self) -> dict[str, object]:
        """JSON values; histograms are left out: they fill again within a hundred calls."""
        arms = {
            name: [spend.calls, spend.output_tokens, spend.costed, spend.cost_nusd, spend.timed, spend.seconds]
            for name, spend in self.arms.items()
        }
        return {"total": [self.calls, self.input_tokens, self.output_tokens], "arms": arms}

    def restore(self, total: list[int], arms: dict[str, list[float]]) -> None:
        """Takes over the history of arms that still exist; older ones have no times."""
        self.calls, self.input_tokens, self.output_tokens = total
        for name in arms.keys() & self.arms.keys():
            spend = self.arms[name]
            counts = [int(number) for number in arms[name]]
            spend.calls, spend.output_tokens, spend.costed, spend.cost_nusd = counts[:4]
            if len(counts) > 4:
                spend.timed, spend.seconds = counts[4], float(arms[name][5])


def _fusd(card: RateCard, input_tokens: float, output_tokens: float) -> float:
    """Femto-dollars of one plain call at the rates that apply to its input size."""
    rates: Rates = next((rates for start, rates in card.sizes if input_tokens > start), card.sizes[-1][1])
    return rates.request + rates.input * input_tokens + rates.output * output_tokens
