from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.budget import Ledger
from sidecar.core.lease import Lease, Lender
from sidecar.core.policy import Budget

NOON = 20_000 * 86_400.0 + 43_200.0


class Spender:
    """One process: it hears what the lender told some time ago, and what it says is heard later still."""

    def __init__(self, who: int) -> None:
        self.who = who
        self.ledger = Ledger(NOON, Budget(daily_nusd=1))
        self.ledger.lease = self.lease = Lease()
        self.flying: list[int] = []
        self.told: int | None = None  # on its way to us
        self.said: list[tuple[int, int, bool]] = []  # on its way to the lender: spent, total in force, whether it heard

    def admit(self, amount: int) -> None:
        if self.ledger.fits(amount, NOON):
            self.ledger.reserve(amount, NOON)
            self.flying.append(amount)

    def end(self, amount: int) -> None:
        if self.flying:
            reserved = self.flying.pop(amount % len(self.flying))
            self.ledger.release(reserved)
            self.ledger.charge(min(amount, reserved), NOON)

    def hear(self) -> None:
        if self.told is not None:
            self.lease.total_nusd, self.told = self.told, None
            self.say(True)

    def say(self, heard: bool) -> None:
        self.said.append((self.lease.spent_nusd, self.lease.in_force(self.ledger.reserved_nusd), heard))


STEP = st.tuples(
    st.sampled_from(["admit", "end", "hear", "say", "tell", "listen"]), st.integers(0, 2), st.integers(0, 40)
)


@given(st.lists(STEP, max_size=150))
def test_all_together_never_pass_the_ceiling(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is admitted, ends, is told and is heard in whatever order: what is spent and reserved anywhere stays below
    the ceiling."""
    ceiling, booked = 300, [0, 0, 0]
    lender, spenders, waiting = Lender(3), [Spender(who) for who in range(3)], [False, False, False]
    for what, who, amount in steps:
        one = spenders[who]
        if what == "admit":
            one.admit(amount)
        elif what == "end":
            one.end(amount)
        elif what == "hear":
            one.hear()
        elif what == "say":
            one.say(False)
        elif what == "tell" and not waiting[who]:
            one.told, waiting[who] = lender.tell(who, ceiling - sum(booked)), True
        elif what == "listen" and one.said:
            spent, in_force, heard = one.said.pop(0)
            booked[who] = spent
            waiting[who] = waiting[who] and not heard
            lender.hear(who, spent, in_force, heard=heard)
        assert sum(one.lease.spent_nusd + one.ledger.reserved_nusd for one in spenders) <= ceiling
        assert lender.held_nusd + sum(booked) <= ceiling


def test_what_nobody_uses_comes_back() -> None:
    """One process spends, the other does not: the first gets nearly all of the budget in the end."""
    lender, spent, idle = Lender(2), 0, 0
    for _ in range(20):
        total, idle = lender.tell(1, 1000 - spent), lender.tell(2, 1000 - spent)
        spent = total
        lender.hear(1, spent, total, heard=True)
        lender.hear(2, 0, idle, heard=True)
    assert spent > 990
    assert spent + idle <= 1000


def test_what_is_taken_back_is_free_when_that_was_heard() -> None:
    """Until then it may be spent, so nobody else gets it."""
    lender = Lender(2)
    for who, spent in ((1, 0), (2, 400)):
        assert lender.tell(who, 1000) == 500
        lender.hear(who, spent, 500, heard=True)
    assert lender.tell(1, 600) == 300
    assert lender.tell(2, 600) == 500
    lender.hear(2, 400, 500, heard=True)
    lender.hear(1, 0, 500, heard=False)  # said before it heard
    assert lender.tell(2, 600) == 500
    lender.hear(2, 400, 500, heard=True)
    lender.hear(1, 0, 300, heard=True)
    assert lender.tell(2, 600) == 700


def test_a_process_that_has_ended_holds_nothing() -> None:
    lender = Lender(1)
    assert lender.tell(1, 100) == 100
    assert lender.tell(2, 100) == 0  # all of it may be on its way to the other
    lender.forget(1)
    lender.forget(3)
    assert lender.tell(2, 100) == 100


def test_calls_under_way_go_on_when_the_total_is_lowered() -> None:
    """They are held until they end, so nobody else gets their money."""
    lease = Lease(100)
    lease.spent_nusd = 30
    assert lease.in_force(40) == 100
    lease.total_nusd = 50
    assert lease.in_force(40) == 70


def test_a_ledger_with_a_lease_obeys_it_in_the_place_of_its_ceilings() -> None:
    """Only the ceiling on one request is its own; the pace is told."""
    ledger = Ledger(NOON, Budget(daily_nusd=1000, per_request_nusd=60))
    ledger.lease = Lease(100, 7.5)
    assert ledger.allowance(NOON) == 7.5
    assert ledger.fits(60, NOON)
    assert not ledger.fits(61, NOON)
    ledger.charge(50, NOON)
    assert (ledger.fits(50, NOON), ledger.fits(51, NOON)) == (True, False)
    ledger.charge(50, NOON)
    assert not ledger.fits(0, NOON)


def test_left_is_what_the_nearest_ceiling_leaves() -> None:
    """None where there is no ceiling of a day, a month or a window; below 0 beyond one."""
    assert Ledger(NOON).left(NOON) is None
    assert Ledger(NOON, Budget(per_request_nusd=5)).left(NOON) is None
    budget = Budget(daily_nusd=100, monthly_nusd=300, window_nusd=80, window_s=60.0)
    ledger = Ledger(NOON, budget)
    ledger.charge(90, NOON)
    assert ledger.left(NOON) == -10
    assert ledger.left(NOON + 120.0) == 10
    ledger.charge(60, NOON + 86_400.0)
    assert ledger.left(NOON + 2 * 86_400.0) == 80
    assert Ledger(NOON, Budget(monthly_nusd=300)).left(NOON) == 300
