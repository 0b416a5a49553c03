"""How many calls one upstream is sent at once: a limit that follows what the upstream says and how soon it answers.

Two ways, and none (the default: a limit that is wrong delays calls that would have succeeded directly).

**overload** is AIMD on the upstream's own word. There is no limit until it answers 429, 503 or 529, or refuses to connect.
Then the limit is BACKOFF x the calls under way, at most one cut each CUT_S: a burst of refusals is one message, as the
losses of a window are to TCP. Each success while at least half of the limit is in use adds 1 / limit, so about one call more
for each round of calls (RFC 5681, congestion avoidance; Netflix's `AIMDLimit` has the same shape and adds a whole call).
When nothing was refused for FORGET_S the limit is gone: providers limit tokens a minute as well, and that is over by then.

**gradient** adds the gradient of Netflix's `Gradient2Limit`, on the time to the first byte of streamed calls:

    gradient = clamp(TOLERANCE x usual / now, 0.5, 1)
    limit    = (1 - SMOOTH) x limit + SMOOTH x (limit x gradient + QUEUE)

*Why the first byte of streams.* The whole duration of a call is its output's length times the model's speed, and the first
byte of a call that is not streamed is its last: both vary tenfold at no load. The first byte of a stream is queue + prompt.
*Why means of logarithms over WINDOW calls.* Prompts differ by orders of magnitude; the geometric mean of a window is not
moved by one of them. *Why Gradient2 and not Envoy's adaptive concurrency.* Envoy measures its minRTT by letting three calls
through at a time, every minute, until fifty have ended: with calls of ten seconds that is three minutes of outage a minute.
Gradient2 keeps a slow mean instead (`usual`, over LONG windows), which follows when the service itself gets slower, and is
pulled down by DECAY a window when it is more than twice what is seen now.
Without a limit the first gradient below 1 makes one of the calls under way. A limit that is not half used does not move.

What it does not know: who waits (`proxy.upstream`), and why an upstream is slow. Memory: ten numbers.
"""

import math
from typing import Final, Literal

Mode = Literal["off", "overload", "gradient"]
OVERLOADED: Final = frozenset({429, 503, 529})  # what upstreams answer that are asked too much
NONE: Final = math.inf

LEAST: Final = 4.0  # 1..20; lower: one refusal makes calls wait for each other, higher: a small server is never spared
BACKOFF: Final = 0.9  # 0.5..0.98; Netflix's AIMD; TCP's 0.5 halves a limit that differs from the truth by a tenth
CUT_S: Final = 1.0  # 0.1..10; shorter: one burst of refusals cuts several times
FORGET_S: Final = 300.0  # 60..3,600; shorter: the limit of a quota is forgotten before the quota is renewed
WINDOW: Final = 16  # 8..100 first bytes; fewer: noise, more: an overload is seen later
LONG: Final = 40.0  # 10..200 windows of the usual time: some 600 calls, as Netflix has it
TOLERANCE: Final = 2.0  # 1..5 times the usual time is no overload; Netflix: 1.5, but prompts vary more than RPCs
QUEUE: Final = 4.0  # 1..10 calls by which the limit tries for more; Netflix's
SMOOTH: Final = 0.2  # 0.05..1; Netflix's
DECAY: Final = 0.95  # 0.8..0.99 of the usual time a window, while it is more than twice too long


class Limit:
    """The limit of one upstream. `value` is inf where there is none."""

    __slots__ = ("_cut_at", "_gradient", "_logs", "_refused_at", "_seen", "usual_s", "value")

    def __init__(self, mode: Literal["overload", "gradient"]) -> None:
        self.value = NONE
        self.usual_s: float | None = None  # time to the first byte of a stream; None: not known yet
        self._gradient = mode == "gradient"
        self._cut_at = self._refused_at = -math.inf
        self._logs = 0.0
        self._seen = 0

    def refused(self, busy: int, now: float) -> None:
        """The upstream said that it has too much, while `busy` calls (>= 1) were under way."""
        self._refused_at = now
        if now - self._cut_at >= CUT_S:
            self._cut_at = now
            self.value = max(LEAST, BACKOFF * min(self.value, busy))

    def served(self, first_byte_s: float | None, busy: int) -> None:
        """A call was served while `busy` were under way; `first_byte_s` of a stream (> 0), None of others."""
        used = busy >= self.value / 2
        if self._gradient and first_byte_s is not None:
            self._logs += math.log(first_byte_s)
            self._seen += 1
            if self._seen == WINDOW:
                self._look(math.exp(self._logs / WINDOW), busy, used=used or self.value == NONE)
        elif self.value != NONE and used:
            self.value += 1.0 / self.value

    def forget(self, now: float) -> None:
        """To be called every second or so: a limit that nothing has confirmed for long is gone."""
        if not self._gradient and now - self._refused_at >= FORGET_S:
            self.value = NONE

    def _look(self, now_s: float, busy: int, *, used: bool) -> None:
        """A window is full: the usual time and the limit move."""
        self._logs, self._seen = 0.0, 0
        usual = now_s if self.usual_s is None else self.usual_s + (now_s - self.usual_s) / LONG
        if usual > 2.0 * now_s:
            usual *= DECAY
        self.usual_s = usual
        gradient = max(0.5, min(1.0, TOLERANCE * usual / now_s))
        if not used or (self.value == NONE and gradient == 1.0):
            return
        limit = float(busy) if self.value == NONE else self.value
        self.value = max(LEAST, (1.0 - SMOOTH) * limit + SMOOTH * (limit * gradient + QUEUE))
