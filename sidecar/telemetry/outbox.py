"""The thread that gives spans and metric points to a collector, and what waits for it.

`put` is a list append. Spans gather for a second, or until REQUEST_SPANS wait, and go in one request; points go every ten
seconds and at the end. A request that finds the collector away or busy is made again for some seconds, and one that says
when is left alone until then; what is refused, or finds no room, is given up and counted. Bounded: MAX_SPANS wait, some
16 MB.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.clock import monotonic
from sidecar.telemetry.collector import TIMEOUT_S, Answer, Sent, Signal, Transport

GATHER_S: Final = 1.0
REQUEST_SPANS: Final = 2048
MAX_SPANS: Final = 16_384
METRICS_EVERY_S: Final = 10.0
_AGAIN_FIRST_S: Final = 0.5
_REST_S: Final = 30.0  # 10..300; shorter: one that asks for more is asked too early, longer: one that errs gets nothing


class Outbox:
    """`exported` and `dropped` count spans, `untold` requests of points that were not taken, or not whole. Any thread may
    read them."""

    def __init__(
        self, transport: Transport, request: Callable[[Sequence[bytes]], bytes], metrics: Callable[[], Sequence[bytes]]
    ) -> None:
        """`request` makes a message of spans or of metrics; `metrics` reads the points, in the outbox's thread."""
        self.exported = self.untold = 0
        self._transport = transport
        self._request = request
        self._metrics = metrics
        self._lock = threading.Lock()
        self._waiting: list[tuple[bytes, int]] = []
        self._spans = 0  # that wait
        self._overflown = 0  # counted where they are put, `_failed` in the thread: two writers would lose counts
        self._failed = 0
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Spans that were given up."""
        return self._overflown + self._failed

    def drop(self, spans: int) -> None:
        """Counts spans that could not be made."""
        self._overflown += spans

    def put(self, made: bytes, spans: int) -> None:
        """Takes encoded spans; drops and counts them when no more may wait. Never blocks and never raises."""
        with self._lock:
            if self._spans + spans > MAX_SPANS:
                self._overflown += spans
                return
            self._waiting.append((made, spans))
            self._spans += spans
            full = self._spans >= REQUEST_SPANS
        if full:
            self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Exports what waits, and the points, for at most `timeout_s`; then gives up and counts the rest."""
        self._ending.set()
        self._wake.set()
        self._thread.join(timeout_s)
        hangs = self._thread.is_alive()
        self._transport.close()
        if hangs:
            self._thread.join(timeout_s)
        self._overflown += sum(spans for _, spans in self._take(MAX_SPANS))

    def _work(self) -> None:
        due = monotonic() + METRICS_EVERY_S
        while True:
            self._wake.wait(GATHER_S)
            self._wake.clear()  # before `_ending` is looked at: who sets that wakes us behind it
            ending, more = self._ending.is_set(), True
            while more:
                more = self._send()
                if monotonic() >= due:  # also while spans, which a slow collector makes wait, come on and on
                    due = monotonic() + METRICS_EVERY_S
                    self._tell_points()
            if ending:
                self._tell_points()
                return

    def _send(self) -> bool:
        """One request of spans that wait; False when none did."""
        taken = self._take(REQUEST_SPANS)
        if not taken:
            return False
        spans = sum(count for _, count in taken)
        answer = self._export("traces", [made for made, _ in taken])
        lost = min(answer.rejected, spans) if answer.sent is Sent.TAKEN else spans
        self.exported += spans - lost
        self._failed += lost
        return True

    def _take(self, most: int) -> list[tuple[bytes, int]]:
        """The oldest that wait, about `most` spans."""
        with self._lock:
            taken: list[tuple[bytes, int]] = []
            spans = 0
            for one in self._waiting:
                if spans >= most:
                    break
                taken.append(one)
                spans += one[1]
            del self._waiting[: len(taken)]
            self._spans -= spans
        return taken

    def _tell_points(self) -> None:
        try:
            made = self._metrics()
        except Exception:  # noqa: BLE001 - points that cannot be read cost themselves; the next ones get their chance
            return
        if made:
            answer = self._export("metrics", made)
            self.untold += answer.sent is not Sent.TAKEN or answer.rejected > 0

    def _export(self, signal: Signal, items: Sequence[bytes]) -> Answer:
        until, pause = monotonic() + TIMEOUT_S, _AGAIN_FIRST_S
        body = self._request(items)
        while True:
            try:
                answer = self._transport.send(signal, body)
            except Exception:  # noqa: BLE001 - whatever a transport raises, the next request gets its chance
                answer = Answer(Sent.REFUSED)
            if answer.sent is not Sent.BUSY or self._ending.is_set():
                return answer
            over = monotonic() + pause > until
            if answer.after_s or not over:  # who says when is obeyed, also where this request is given up
                self._ending.wait(max(pause, min(answer.after_s or 0.0, _REST_S)))
            if over:
                return answer
            pause *= 2
