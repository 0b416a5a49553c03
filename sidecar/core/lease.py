"""A ceiling that several processes share: each may spend a part of what is left, and all parts together never pass it.

**Model.** One process, the lender, knows what is spent. It tells each of the others how much that one may have spent in
all since it began (`Lease.total_nusd`), so that a message that comes late or twice means the same. With

    left    what the ceiling leaves of what the lender has booked
    held    the most that a process may still spend beyond what the lender has booked of it: by the largest total that it
            may be using, which is what it said last, or what it was told since

the lender keeps `sum of held <= left`: each gets `left / parts`, more than before only out of what nobody holds, and less
counts only when it has said that it heard. A lease that nobody uses shrinks with what the others spend, so it comes back
to them. The price of it: a call that costs more than the part of its process is refused although all parts together have
the money, and so the last `(parts - 1) x the cost of a call` of a budget may stay unspent.

What it does not know: days, months and windows (`core.budget`), and how messages travel.
"""


class Lease:
    """What one process may spend of one budget. `pace_nusd` is what its next calls may cost on average."""

    __slots__ = ("pace_nusd", "spent_nusd", "total_nusd")

    def __init__(self, total_nusd: int = 0, pace_nusd: float = 0.0) -> None:
        self.total_nusd = total_nusd  # since it began
        self.spent_nusd = 0
        self.pace_nusd = pace_nusd

    def in_force(self, reserved_nusd: int) -> int:
        """The most that it will have spent in all: calls under way go on when the total is lowered."""
        return max(self.total_nusd, self.spent_nusd + reserved_nusd)


class _Held:
    """What the lender knows of one process."""

    __slots__ = ("said", "spent", "told")

    def __init__(self) -> None:
        self.spent = 0  # of which the lender has booked all
        self.said = 0  # the total in force, as the process said it last
        self.told = 0  # a total that it may not have heard yet

    @property
    def most(self) -> int:
        return max(self.said, self.told)


class Lender:
    """Who holds how much of one budget. Processes are told apart by any number that is never used again."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._held: dict[int, _Held] = {}

    @property
    def held_nusd(self) -> int:
        """What all of them together may still spend."""
        return sum(one.most - one.spent for one in self._held.values())

    def tell(self, who: int, left_nusd: int) -> int:
        """The total for `who` now. It has to be told, and nothing else may be told before it says that it heard."""
        held = self._held.setdefault(who, _Held())
        most = held.most
        wanted = held.spent + max(0, left_nusd) // self._parts
        if wanted > most:
            wanted = most + min(wanted - most, max(0, left_nusd - self.held_nusd))
        held.told = wanted
        return wanted

    def hear(self, who: int, spent_nusd: int, in_force_nusd: int, *, heard: bool) -> None:
        """What `who` has spent, all of it booked by now, and its total in force; `heard`: the last one told is in it."""
        held = self._held.setdefault(who, _Held())
        held.spent, held.said = spent_nusd, in_force_nusd
        if heard:
            held.told = 0

    def forget(self, who: int) -> None:
        """The process is gone, and with it what it had reserved."""
        self._held.pop(who, None)
