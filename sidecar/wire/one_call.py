"""Keeps the promise of one call at a time (`parallel_tool_calls: false`) for arms whose format has no word for it.

The first call of an answer goes on, further ones are left out. The client gives back that call and its result, and the
model, asked again, goes on from there: what the client sees is what a model says that calls one tool at a time.

What it does not know: which formats lack the word, and what is told of it (`wire.translate`, the spokes).
"""

from collections.abc import Sequence

from sidecar.wire.neutral import Close, Delta, Event, Mark, Open, Response, ToolCall


class OneCall:
    """One answer, whole or streamed."""

    def __init__(self) -> None:
        self._calling: set[int] = set()  # choices that have a call
        self._left_out: set[tuple[int, int]] = set()  # parts, by choice and index

    def whole(self, answer: Response) -> None:
        """Leaves out all calls of a choice but its first."""
        for choice in answer.choices:
            first = next((part for part in choice.parts if isinstance(part, ToolCall)), None)
            choice.parts = [part for part in choice.parts if part is first or not isinstance(part, ToolCall)]

    def events(self, events: Sequence[Event]) -> list[Event]:
        """These events without those of further calls."""
        return [event for event in events if self._stays(event)]

    def _stays(self, event: Event) -> bool:
        match event:
            case Open(part=ToolCall()):
                if event.choice in self._calling:
                    self._left_out.add((event.choice, event.index))
                    return False
                self._calling.add(event.choice)
            case Delta() | Mark() | Close():
                return (event.choice, event.index) not in self._left_out
            case _:
                pass
        return True
