"""The app of a simulated pod: the official SDK, configured by its environment only, as an injected container is.

Eight workers call without a pause worth the name, every second call a stream. On SIGTERM each ends the call that is under
way and then, for a second, makes the last ones that a real app makes at its end. What became of each call is a JSON line
of the file `APP_LOG`. Exit 0 when all calls came whole, else 1.
"""

import asyncio
import json
import os
import random  # noqa: TID251 - an app's own pauses; nothing is measured by them
import signal
import sys
from pathlib import Path
from typing import TextIO

import openai

from sidecar.clock import monotonic

WORKERS = int(os.environ.get("APP_WORKERS", "8"))
LAST_S = float(os.environ.get("APP_LAST_S", "1"))  # how long it makes calls after SIGTERM
LULL_S = float(os.environ.get("APP_LULL_S", "0"))  # how long it makes none before that: it finishes other work


class App:
    """Its workers, and the file of what they saw."""

    def __init__(self, log: TextIO, ending: asyncio.Event) -> None:
        self.client = openai.AsyncOpenAI(max_retries=0)  # a call that is sent again is one that was lost
        self.ending = ending
        self.lost = 0
        self.log = log

    async def worker(self, number: int) -> None:
        """Calls until the end, and a while beyond."""
        made, until = 0, float("inf")
        while monotonic() < until:
            made += 1
            await self.call(f"worker {number} asks for the {made}. time: what is 2 + 2?", stream=made % 2 == 0)
            await asyncio.sleep(random.uniform(0.0, 0.3 if self.ending.is_set() else 0.02))
            if self.ending.is_set() and until == float("inf"):
                await asyncio.sleep(LULL_S)
                until = monotonic() + LAST_S

    async def call(self, text: str, *, stream: bool) -> None:
        """One call, to its last byte."""
        last, decision, error = self.ending.is_set(), "", None
        try:
            async with asyncio.timeout(30):
                raw = await self.client.chat.completions.with_raw_response.create(
                    model="gpt-4o", messages=[{"role": "user", "content": text}], stream=stream
                )
                decision, answer = raw.headers.get("x-sidecar-decision", ""), raw.parse()
                reasons = [answer.choices[0].finish_reason] if not stream else []
                if stream:
                    async for chunk in answer:
                        reasons += [choice.finish_reason for choice in chunk.choices]
            if not any(reasons):
                error = "no end"
        except (openai.OpenAIError, OSError, TimeoutError) as failure:
            error = f"{failure!r} by {failure.__cause__!r}"
        self.lost += error is not None
        print(
            json.dumps({"decision": decision, "stream": stream, "last": last, "error": error}),
            file=self.log,
            flush=True,
        )


def app_of(path: Path) -> App:
    """An app that SIGTERM ends well, once the file is there."""
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    return App(path.open("w", encoding="utf-8"), ending)


async def main() -> int:
    app = app_of(Path(os.environ["APP_LOG"]))
    with app.log:
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(app.worker(number))
    await app.client.close()
    return 1 if app.lost else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
