"""The story that `make run` tells, each step with a bound: what does not happen in time ends the demo with exit code 1.

A cheaper model comes in by canary and, proven, takes over most calls. A second one comes in, fails, and is taken out
again on evidence. Then the bill.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from sidecar.clock import monotonic, wall
from sidecar.demo.board import Board, Screen, View, read, served_since, view_of
from sidecar.demo.stage import BASELINE, BROKEN, BROKEN_MODEL, CHEAPER, SHORTENED, Stage, StoryError, build, command
from sidecar.demo.traffic import Traffic
from sidecar.store import queries

_LOOK_EVERY_S: Final = 0.5
_STORY_S: Final = 180.0
_SEED: Final = 11
_MOST: Final = 0.7  # the share of calls that the cheaper arm must reach
_LOSS: Final = 0.05  # the policy's max_quality_loss
_SEEN_WELL: Final = 15  # requests on the second arm before the fault


class Over(Exception):
    """`--seconds` is over."""


@dataclass(slots=True)
class Facts:
    """What the summary tells."""

    told: bool = False
    fault_at: float = 0.0  # wall clock
    rollback_s: float | None = None
    hit: tuple[int, int] = (0, 0)  # requests on the broken arm after the fault, and the failed ones among them


def play(seconds: float = 0.0) -> int:
    """Plays the demo; the exit code. `seconds` > 0: ends after that long, whether the story is told or not."""
    folder = Path(tempfile.mkdtemp(prefix="llm-sidecar-demo-"))
    screen = Screen()
    with ExitStack() as undo:
        try:
            stage = build(folder, undo)
            traffic = Traffic(stage.traffic, _SEED)
            facts = asyncio.run(_Story(stage, traffic, screen, seconds).tell())
        except StoryError as error:
            screen.say(f"\nThe story stopped: {error}\nFiles and logs: {folder}")
            return 1
        except asyncio.CancelledError:  # SIGTERM
            screen.say(f"\nEnded. Files and logs: {folder}")
            return 1
        except KeyboardInterrupt:
            screen.say(f"\nInterrupted. Files and logs: {folder}")
            raise
    return _summary(stage, traffic, facts)


class _Story:
    """The steps, and the waiting between them."""

    def __init__(self, stage: Stage, traffic: Traffic, screen: Screen, seconds: float) -> None:
        self._stage = stage
        self._traffic = traffic
        self._screen = screen
        self._seconds = seconds
        self._began = monotonic()
        self._facts = Facts()

    async def tell(self) -> Facts:
        """All steps. Raises StoryError at the first that does not happen in time."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session:
            self._board = Board(self._stage, session)
            self._session = session
            self._traffic.start()
            try:
                await self._steps()
                self._facts.told = True
                if self._seconds:
                    await self._wait("the end", lambda _view: False, self._seconds)
            except Over:
                pass
            finally:
                await self._traffic.close()
        return self._facts

    async def _steps(self) -> None:
        self._open()
        await self._wait("the first 50 calls", lambda view: view.requests >= 50, 20)
        self._say(
            f"1  {CHEAPER} comes in by canary: 5 % of new conversations, then more, as long as nothing gets worse"
        )
        await self._wait(f"{CHEAPER} at 25 %", lambda view: _step(view, CHEAPER) >= 25, 60)
        await self._wait(f"{CHEAPER} at 50 %", lambda view: _step(view, CHEAPER) >= 50, 45)
        await self._wait(f"the promotion of {CHEAPER}", lambda view: _phase(view, CHEAPER) == "promoted", 45)
        self._say(f"2  {CHEAPER} is in: the selector now sends calls where they are cheapest at the same quality")
        await self._wait(f"{CHEAPER} serves {_MOST:.0%}, quality within {_LOSS:.0%}", _took_over, 30)
        self._say(f"3  a second arm, {BROKEN}, is written into the policy file; its rollout starts by itself")
        self._stage.add_arm()
        seen = f"{_SEEN_WELL} calls on {BROKEN}"
        await self._wait(seen, lambda view: _requests(view, BROKEN) >= _SEEN_WELL, 30)
        await self._fault()
        await self._wait(f"the rollback of {BROKEN}", lambda view: _phase(view, BROKEN) == "rolled_back", 30)
        await self._measure_rollback()
        seconds, (_, failed) = self._facts.rollback_s, self._facts.hit
        self._say(f"5  {BROKEN} is out, {seconds:.1f} s and {failed} failed calls after the fault began")
        await self._wait(
            f"calls go on without {BROKEN}", lambda view: _share(view, BROKEN) == 0 and _took_over(view), 25
        )

    def _open(self) -> None:
        stage, start = self._stage, command()
        admin = stage.admin.removeprefix("http://")
        self._say(
            f"The app calls {stage.traffic}/v1 for gpt-4o; behind it answers a simulated provider, {stage.provider}"
        )
        self._say(f"Policy {stage.policy} (shortened for the demo: {SHORTENED})")
        self._say(f"Files and logs stay in {stage.folder}. In another terminal, while this runs:")
        self._say(f"  SIDECAR_DB={stage.db} SIDECAR_ADMIN_LISTEN={admin} {start} rollout status\n")

    async def _fault(self) -> None:
        fault = {"kind": "status", "status": 503, "rate": 1.0, "models": [BROKEN_MODEL]}
        self._say(f"4  fault: from now on the provider answers every call for {BROKEN_MODEL} with 503")
        self._facts.fault_at = wall()
        async with self._session.post(f"{self._stage.provider}/_sim/faults", data=orjson.dumps([fault])) as answer:
            if answer.status != 200:
                raise StoryError(f"the simulated provider refused the fault: {await answer.text()}")

    async def _measure_rollback(self) -> None:
        """Time from the fault to the event, and the calls that the arm served meanwhile."""
        facts = self._facts
        await asyncio.sleep(1.0)  # calls under way end, and the store's group commit is done
        events = await asyncio.to_thread(queries.events, self._stage.db, 20, "rollout.rolled_back")
        at = next((event["at"] for event in events if event["arm"] == BROKEN), None)
        if at is None:
            raise StoryError(f"the database holds no rollout.rolled_back event of {BROKEN}")
        facts.rollback_s = datetime.fromisoformat(at).timestamp() - facts.fault_at
        facts.hit = await asyncio.to_thread(served_since, self._stage.db, BROKEN, facts.fault_at)

    async def _wait(self, what: str, reached: Callable[[View], bool], within_s: float) -> None:
        """Shows the table until `reached`. Raises StoryError after `within_s`, Over when the caller's time is over."""
        end = monotonic() + within_s
        while True:
            now = monotonic()
            self._stage.check()
            if self._traffic.bug is not None:
                raise StoryError(f"the demo's app failed: {self._traffic.bug!r}")
            view = await self._board.look()
            self._screen.draw(view, now - self._began)
            if reached(view):
                return
            if self._seconds and now - self._began >= self._seconds:
                raise Over
            if not self._facts.told and (now > end or now - self._began > _STORY_S):
                raise StoryError(f"{what} did not happen within {min(within_s, _STORY_S):.0f} s")
            await asyncio.sleep(_LOOK_EVERY_S)

    def _say(self, text: str) -> None:
        self._screen.say(text)


def _phase(view: View, arm: str) -> str:
    return str(view.rollouts.get(arm, {}).get("phase", ""))


def _step(view: View, arm: str) -> int:
    return int(view.rollouts.get(arm, {}).get("step", 0))


def _requests(view: View, arm: str) -> int:
    row = view.arms.get(arm)
    return 0 if row is None else row.requests


def _share(view: View, arm: str) -> float:
    row = view.arms.get(arm)
    return 0.0 if row is None else row.share


def _took_over(view: View) -> bool:
    """Whether the cheaper arm serves most calls, no more than the policy's loss worse than the baseline."""
    base, arm = view.arms.get(BASELINE), view.arms.get(CHEAPER)
    if base is None or arm is None or base.quality is None or arm.quality is None:
        return False
    return arm.share >= _MOST and arm.quality >= (1 - _LOSS) * base.quality


def _summary(stage: Stage, traffic: Traffic, facts: Facts) -> int:
    """What happened, in figures that the database holds, and how to look further; the exit code."""
    start, db = command(), stage.db
    view = view_of({}, *read(db))  # both processes have ended: the database says all
    lines = ["", "Story told." if facts.told else "The time was over before the story was told.", ""]
    lines.append(
        f"decisions written    {view.requests:,} for {traffic.fine + traffic.failed:,} answers that the app got"
    )
    saved = view.saved()
    if saved is not None:
        lines.append(
            f"cost saved           {saved:.1%} of what {BASELINE} alone would have cost, at its mean cost as measured"
        )
    if facts.rollback_s is not None:
        lines.append(
            f"time to rollback     {facts.rollback_s:.1f} s: {facts.hit[0]} requests on {BROKEN}, "
            f"{facts.hit[1]} of them failed"
        )
    served = [row for row in queries.decisions(db, None, 100) if row["outcome"] == "completed"]
    lines += ["", "look further:", f"  {start} decisions --db {db}"]
    lines += [f"  {start} explain {row['id']} --db {db}" for row in served[:1]]
    lines.append(
        f"  {start} demo --seconds 600      keeps the sidecar running, for `rollout status` in another terminal"
    )
    sys.stdout.write("\n".join(lines) + "\n")
    if view.requests < traffic.fine + traffic.failed:
        sys.stdout.write(f"FAILED: {traffic.fine + traffic.failed - view.requests} answers have no decision in {db}\n")
        return 1
    return 0
