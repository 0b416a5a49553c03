"""The thread that gives spans and metric points to a collector, and what waits for it.

`put` is a list append. Spans gather for a second, or until REQUEST_SPANS wait, and go in one request; points go every ten
seconds and at the end. A request that finds the collector away or busy is made again for some seconds; what is refused, or
finds no room, is given up and counted. Bounded: MAX_SPANS wait, some 16 MB.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.clock import monotonic
from sidecar.telemetry.collector import TIMEOUT_S, Sent, Signal, Transport

GATHER_S: Final = 1.0
REQUEST_SPANS: Final = 2048
MAX_SPANS: Final = 16_384
METRICS_EVERY_S: Final = 10.0
_AGAIN_FIRST_S: Final = 0.5


class Outbox:
    """`exported` and `dropped` count spans, and may be read by any thread."""

    def __init__(
        self, transport: Transport, request: Callable[[Sequence[bytes]], bytes], metrics: Callable[[], Sequence[bytes]]
    ) -> None:
        """`request` makes a message of spans or of metrics; `metrics` reads the points, in the outbox's thread."""
        self.exported = 0
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
        if self._export("traces", [made for made, _ in taken]):
            self.exported += spans
        else:
            self._failed += spans
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
            self._export("metrics", made)

    def _export(self, signal: Signal, items: Sequence[bytes]) -> bool:
        until, pause = monotonic() + TIMEOUT_S, _AGAIN_FIRST_S
        body = self._request(items)
        while True:
            try:
                sent = self._transport.send(signal, body)
            except Exception:  # noqa: BLE001 - whatever a transport raises, the next request gets its chance
                sent = Sent.REFUSED
            if sent is not Sent.BUSY or self._ending.is_set() or monotonic() + pause > until:
                return sent is Sent.TAKEN
            self._ending.wait(pause)
            pause *= 2
