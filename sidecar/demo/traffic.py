"""The demo's app: conversations of one to three turns that ask for sums, streaming or not, and score what they get.

It knows nothing of arms: it calls `gpt-4o` at the sidecar as any app does, reads the answer, and, like a user who
checks the sum, sends a score for some answers with the decision's id.
"""

import asyncio
from typing import Any, Final

import aiohttp
import numpy as np
import orjson

from sidecar.sim.marker import score
from sidecar.tasks import Tasks

CONVERSATIONS_PER_S: Final = 45.0  # two turns each: 90 requests a second
_STREAMED: Final = 0.7
_SCORED: Final = 0.6
_THINKS_S: Final = 0.4
_SCORES_AFTER_S: Final = 0.5
_TIMEOUT_S: Final = 15.0
_MAX_OPEN: Final = 2_000
_SYSTEM: Final = "You are a careful assistant of a shop. You answer sums with one line."


class Traffic:
    """Calls until it is closed. The counters are what the app saw."""

    def __init__(self, origin: str, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._origin = origin
        self._tasks = Tasks(self._failed)
        self._session: aiohttp.ClientSession | None = None
        self._next = 0
        self.sent = 0
        self.fine = 0
        self.failed = 0
        self.scored = 0
        self.bug: BaseException | None = None

    def start(self) -> None:
        """Begins to call; the loop must run."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(self._origin, connector=connector, timeout=timeout)
        self._tasks.spawn(self._arrivals(), "arrivals")

    async def close(self) -> None:
        """Ends all conversations."""
        await self._tasks.close(2.0)
        if self._session is not None:
            await self._session.close()

    def _failed(self, _name: str, error: BaseException) -> None:
        self.bug = error

    async def _arrivals(self) -> None:
        """Conversations come independently of each other: the gaps are exponential."""
        while True:
            await asyncio.sleep(float(self._rng.exponential(1 / CONVERSATIONS_PER_S)))
            if len(self._tasks) < _MAX_OPEN:
                self._next += 1
                self._tasks.spawn(self._conversation(self._next), "conversation")

    async def _conversation(self, number: int) -> None:
        messages = [{"role": "system", "content": _SYSTEM}]
        for turn in range(int(self._rng.integers(1, 4))):
            a, b = (int(value) for value in self._rng.integers(10, 999, 2))
            opening = f"I am customer {number}. " if turn == 0 else ""
            messages.append({"role": "user", "content": f"{opening}What is {a} + {b}?"})
            text = await self._call(messages)
            if text is None:
                return
            messages.append({"role": "assistant", "content": text})
            await asyncio.sleep(float(self._rng.exponential(_THINKS_S)))

    async def _call(self, messages: list[dict[str, str]]) -> str | None:
        """One request; the answer's text, None when there was none."""
        assert self._session is not None
        stream = bool(self._rng.random() < _STREAMED)
        body = orjson.dumps({"model": "gpt-4o", "stream": stream, "messages": messages})
        headers = {"Content-Type": "application/json", "Authorization": "Bearer no-key-needed"}
        self.sent += 1
        try:
            async with self._session.post("/v1/chat/completions", data=body, headers=headers) as answer:
                whole = await answer.read()
                if answer.status != 200:
                    self.failed += 1
                    return None
                decision = answer.headers.get("x-sidecar-decision")
        except (aiohttp.ClientError, TimeoutError):
            self.failed += 1
            return None
        self.fine += 1
        text = said(whole, stream)
        if decision is not None and self._rng.random() < _SCORED:
            self._tasks.spawn(self._score(decision, score(text) or 0.0), "score")
        return text

    async def _score(self, decision: str, value: float) -> None:
        assert self._session is not None
        await asyncio.sleep(_SCORES_AFTER_S)
        body = orjson.dumps({"id": decision, "score": value, "source": "user"})
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post("/_sidecar/v1/feedback", data=body, headers=headers) as answer:
                self.scored += answer.status == 202
        except (aiohttp.ClientError, TimeoutError):
            return  # a lost score is a score less, as in life


def said(body: bytes, stream: bool) -> str:
    """The text of an answer of chat completions."""
    if not stream:
        whole: Any = orjson.loads(body)
        return str(whole["choices"][0]["message"]["content"])
    parts = []
    for line in body.splitlines():
        if line.startswith(b"data: {"):
            event: Any = orjson.loads(line[6:])
            parts += [choice["delta"].get("content") or "" for choice in event["choices"]]
    return "".join(parts)
