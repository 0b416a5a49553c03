"""The one owner of background tasks: each has a name, their number is bounded, and none dies silently or is left behind."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

MAX_TASKS: Final = 20_000  # far above what the stream and connection limits allow; a leak shows before memory is gone


class Tasks:
    """Owns tasks until they end or `close` cancels them."""

    def __init__(self, on_error: Callable[[str, BaseException], None]) -> None:
        """`on_error(name, exception)` is told of every task that ended by an exception."""
        self.on_error = on_error  # also for what a task of ours survives
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Starts `coroutine` as a task of ours.

        Raises:
            RuntimeError: too many tasks run already, which is a leak of ours.
        """
        if len(self._tasks) >= MAX_TASKS:
            coroutine.close()
            raise RuntimeError(f"{MAX_TASKS} tasks are running: something of ours leaks them")
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self, timeout_s: float) -> None:
        """Cancels what still runs and waits for it, at most `timeout_s`."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_error(task.get_name(), error)


async def in_thread(call: Callable[[], T]) -> T:
    """What `call` returns or raises. As `asyncio.to_thread`, but the end of the process does not wait for the thread: what
    only reads may be cut, and a volume that is away would hold it for ever."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(error)

    threading.Thread(target=run, name="reading", daemon=True).start()
    return await asyncio.wrap_future(future)
