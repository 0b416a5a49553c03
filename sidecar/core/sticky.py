"""Which arm a conversation has, and which keys are too common to be one conversation.

**Sticky** is an exact least-recently-used table of MAX_BINDINGS keys. A binding carries the generation that its owner
(one arm of one route) had when it was made; `unbind` raises the owner's generation, which makes all its bindings void
at once in O(1), however many they are. Void bindings are dropped when they are looked up or pushed out. Switching
model within a conversation loses the provider's prompt cache and the answer's coherence, so a binding ends only by
rollback, by rules, by removal of the arm, or by age in this table (65,536 conversations: about 8 MB; a service with
more at once sees its oldest conversations assigned anew).

**HeavyKeys** finds keys that are more than SHARE of the recent traffic: a derived key (system text, first user
message) that common is a template, not a conversation, and would move its whole traffic as one unit. It counts with
Misra and Gries' algorithm (Finding repeated elements, Sci. Comput. Program. 2, 1982): COUNTERS counters, every count
too low by at most total / (COUNTERS + 1) and never too high. So a reported key truly exceeds SHARE, and a key above
SHARE + 1/(COUNTERS + 1) = 2.5 % is always reported. Counts are halved every HALVE_AFTER keys, which makes "recent" a
few thousand requests.
"""

from collections import OrderedDict

from msgspec import Struct

MAX_BINDINGS = 65_536  # 1e3..1e6; fewer: long-lived conversations switch model, more: memory (about 130 bytes each)
SHARE = 0.02  # DESIGN 4; higher: templates split traffic in lumps, lower: real conversations of tiny services flicker
COUNTERS = 199  # error 0.5 % of traffic; fewer: keys near SHARE are missed
HALVE_AFTER = 8_192  # 1e3..1e6; smaller forgets a template within its quiet hour, larger reacts late
MIN_TRAFFIC = 500  # below it 2 % is fewer than ten requests: any real conversation would be "heavy"


class Binding(Struct, frozen=True, gc=False):
    """An assignment that a key keeps. Equal assignments share one object. `owner` is `route/arm`."""

    owner: str
    arm: str
    propensity: float  # of the assignment when it was made, in (0, 1]
    generation: int
    tag: str = ""  # of the rollout attempt whose hash decided it, canary or control; empty when none did
    step: int | None = None  # percent of that rollout when it was decided


class Sticky:
    """Key -> binding, bounded; the verbs are get, bind and unbind."""

    def __init__(self, max_bindings: int = MAX_BINDINGS) -> None:
        self._max = max_bindings
        self._bindings: OrderedDict[int, Binding] = OrderedDict()
        self._generations: dict[str, int] = {}
        self.unbound = 0  # calls of `unbind`

    def __len__(self) -> int:
        return len(self._bindings)

    def generation(self, owner: str) -> int:
        return self._generations.get(owner, 0)

    def get(self, key: int) -> Binding | None:
        """The binding of `key` if it still holds; a look makes the key the youngest."""
        found = self._bindings.get(key)
        if found is None:
            return None
        if found.generation != self._generations.get(found.owner, 0):
            del self._bindings[key]
            return None
        self._bindings.move_to_end(key)
        return found

    def bind(self, key: int, binding: Binding) -> None:
        """Binds `key`, pushing out the key that was not used for longest when the table is full."""
        bindings = self._bindings
        bindings[key] = binding
        bindings.move_to_end(key)
        if len(bindings) > self._max:
            bindings.popitem(last=False)

    def unbind(self, owner: str) -> None:
        """All keys of `owner` are free from now on (O(1))."""
        self._generations[owner] = self._generations.get(owner, 0) + 1
        self.unbound += 1

    def youngest(self, limit: int) -> list[tuple[int, Binding]]:
        """Up to `limit` valid bindings, youngest first."""
        found: list[tuple[int, Binding]] = []
        for key, binding in reversed(self._bindings.items()):
            if len(found) >= limit:
                break
            if binding.generation == self._generations.get(binding.owner, 0):
                found.append((key, binding))
        return found


class HeavyKeys:
    """Counts keys in bounded memory and says which exceed their share of the traffic."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0

    def __len__(self) -> int:
        return len(self._counts)

    def observe(self, key: int) -> bool:
        """Counts one request of `key`; True when the key is now known to exceed SHARE of the recent traffic."""
        counts = self._counts
        self._total += 1
        count = counts.get(key)
        if count is not None:
            counts[key] = count = count + 1
        elif len(counts) < COUNTERS:
            counts[key] = count = 1
        else:
            self._counts = {known: seen - 1 for known, seen in counts.items() if seen > 1}
            count = 0
        total = self._total
        if total >= HALVE_AFTER:
            self._total = total // 2
            self._counts = {known: seen // 2 for known, seen in self._counts.items() if seen > 1}
        return total >= MIN_TRAFFIC and count > SHARE * total
