"""Which arm a conversation has, and which keys are too common to be one conversation.

**Sticky** is a table (`core.recent`) of at most MAX_BINDINGS keys, of which the MAX_BINDINGS / 2 that were used last are
always there. A binding carries the generation that its owner
(one arm of one route) had when it was made; `unbind` raises the owner's generation, which makes all its bindings void
at once in O(1), however many they are. Void bindings are dropped when they are looked up or pushed out. Switching
model within a conversation loses the provider's prompt cache and the answer's coherence, so a binding ends only by
rollback, by rules, by removal of the arm, or by age in this table (a service with more conversations at once sees its
oldest assigned anew).

**HeavyKeys** finds keys that are no conversation but a template: a derived key (system text, first user message) that
every call of some service shares, and that would move all of them as one unit. What tells the two apart is size: a
conversation GROWS from call to call, so only calls that are not larger than the key's last one count, and one that is
larger takes one back (an app that repeats a failed turn twice gains one repeat). A key is a template when

* it has TEMPLATE_REPEATS repeats: all its calls but the first 16 are then assigned one by one, whatever the traffic.
  At most MAX_KEYS keys are remembered (`core.recent`), always the MAX_KEYS / 2 that were used last; a template stays one
  until it is forgotten.
* or its calls that are SMALLER than the one before are more than SHARE of the recent traffic: this finds templates
  whose calls grow for a while and begin again, like agents on one task. Counted with Misra and Gries' algorithm
  (Finding repeated elements, Sci. Comput. Program. 2, 1982): COUNTERS counters, every count too low by at most total /
  (COUNTERS + 1) and never too high. So a reported key truly exceeds SHARE, and a key above SHARE + 1/(COUNTERS + 1) =
  2.5 % is always reported. Counts are halved every HALVE_AFTER calls, which makes "recent" a few thousand requests.

What it does not know: apps that cut old turns off to keep a size. Such a conversation is a template after 16 turns.
"""

import re
from hashlib import blake2b
from itertools import islice

from msgspec import Struct

from sidecar.core.recent import Recent

MAX_BINDINGS = 32_768  # 1e3..1e6; fewer: long-lived conversations switch model, more: memory (about 200 bytes each)
SHARE = 0.02  # of the traffic; higher: templates split it in lumps, lower: real conversations of tiny services flicker
COUNTERS = 199  # error 0.5 % of traffic; fewer: keys near SHARE are missed
HALVE_AFTER = 8_192  # 1e3..1e6; smaller forgets a template within its quiet hour, larger reacts late
TEMPLATE_REPEATS = 16  # 4..64; fewer: apps that repeat failed calls lose their conversation, more: larger lumps
# 1e3..1e5; fewer: templates among many conversations are forgotten, more: memory (about 100 bytes each)
MAX_KEYS = 8_192
_REPEATS_BITS = 7  # more than TEMPLATE_REPEATS has
_REPEATS = (1 << _REPEATS_BITS) - 1
_NAMED = re.compile(r"[0-9a-f]{16}")
KEY_FORM = (
    "16 digits of 0-9 and a-f, not all 0, as `llm-sidecar decisions --json` shows it; not the name that the app sends"
)
MIN_TRAFFIC = 500  # below it 2 % is fewer than ten requests: any real conversation would be "heavy"


def salt_of(route: str) -> int:
    """What tells the keys of a route from those of others: a conversation is bound under `key ^ salt`."""
    return int.from_bytes(blake2b(route.encode(), digest_size=8).digest(), "big")


def key_of(text: str) -> int | None:
    """The key that the `sticky_key` of a row names, 16 hexadecimal digits; None when the text names none."""
    return (int(text, 16) or None) if _NAMED.fullmatch(text) else None


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
        self._bindings = Recent[int, Binding](max_bindings)
        self._generations: dict[str, int] = {}
        self.unbound = 0  # calls of `unbind` and `free`

    def __len__(self) -> int:
        return len(self._bindings)

    @property
    def generations(self) -> dict[str, int]:
        """How often each owner was unbound, those who ever were."""
        return dict(self._generations)

    def generation(self, owner: str) -> int:
        return self._generations.get(owner, 0)

    def get(self, key: int) -> Binding | None:
        """The binding of `key` if it still holds; a look makes the key young again."""
        found = self._bindings.pop(key)
        if found is None or found.generation != self._generations.get(found.owner, 0):
            return None
        self._bindings.put(key, found)
        return found

    def bind(self, key: int, binding: Binding) -> None:
        """Binds `key`; the keys that nobody asked for the longest time may be free by it."""
        self._bindings.put(key, binding)

    def free(self, key: int) -> None:
        """`key` is free from now on."""
        self._bindings.pop(key)
        self.unbound += 1

    def unbind(self, owner: str) -> None:
        """All keys of `owner` are free from now on (O(1))."""
        self._generations[owner] = self._generations.get(owner, 0) + 1
        self.unbound += 1

    def youngest(self, limit: int) -> list[tuple[int, Binding]]:
        """Up to `limit` valid bindings, those that were used last first."""
        valid = (
            (key, binding)
            for key, binding in self._bindings.youngest()
            if binding.generation == self._generations.get(binding.owner, 0)
        )
        return list(islice(valid, limit))


class HeavyKeys:
    """Counts repeats of keys in bounded memory and says which keys are templates (see the head of this file)."""

    def __init__(self) -> None:
        self._seen = Recent[int, int](MAX_KEYS)  # key -> bytes of its last call and repeats, in one number
        self._counts: dict[int, int] = {}
        self._total = 0

    def __len__(self) -> int:
        return len(self._seen)

    def observe(self, key: int, input_bytes: int) -> bool:
        """Counts one request of `key`; True when the key is now known to be a template."""
        known = self._seen.pop(key)
        if known is None:  # most often: the first call of a conversation
            self._seen.put(key, input_bytes << _REPEATS_BITS)
            if key in self._counts or self._total >= HALVE_AFTER - 1:
                return self._is_frequent(key, False)
            self._total += 1
            return False
        last_bytes, repeats = known >> _REPEATS_BITS, known & _REPEATS
        if repeats < TEMPLATE_REPEATS:
            repeats = repeats + 1 if input_bytes <= last_bytes else max(0, repeats - 1)
        self._seen.put(key, input_bytes << _REPEATS_BITS | repeats)
        return self._is_frequent(key, input_bytes < last_bytes) or repeats >= TEMPLATE_REPEATS

    def _is_frequent(self, key: int, counted: bool) -> bool:
        counts = self._counts
        self._total += 1
        count = counts.get(key, 0) + counted
        if not counted:
            pass  # it is traffic all the same
        elif count > 1 or len(counts) < COUNTERS:
            counts[key] = count
        else:
            self._counts = {known: seen - 1 for known, seen in counts.items() if seen > 1}
            count = 0
        total = self._total
        if total >= HALVE_AFTER:
            self._total = total // 2
            self._counts = {known: seen // 2 for known, seen in self._counts.items() if seen > 1}
        return total >= MIN_TRAFFIC and count > SHARE * total
