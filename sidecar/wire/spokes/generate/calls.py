"""Which call a result answers, and what a tool answered, in Gemini's words.

**Ids.** Older models give calls no id: pairs are found by name and order. A reader makes ids by position, `call_0`, `call_1`
and so on; the writer of the same format goes through the same steps and leaves out what a reader would make again.

**Results.** Gemini wants an object, all others a text. `{"output": text}` and `{"error": text}` are a text; any other
object is its compact JSON. A text that is such JSON, byte for byte, becomes the object again. Each way undoes the other.
"""

from sidecar.wire.members import Json
from sidecar.wire.spokes.generate.members import json_object, json_text

_KEYS = frozenset({"output", "error"})


class CallIds:
    """The ids of one conversation, or of one answer (with another `base`), in the order of its parts."""

    def __init__(self, base: str = "call") -> None:
        self._base = base
        self._count = 0
        self._made: set[str] = set()  # ids that no body said
        self._open: dict[str, list[str]] = {}  # calls that have no result yet, by name

    def call(self, name: str, said: str | None) -> str:
        """The id of the next call."""
        made = self._next()
        call_id = made if said is None else said
        if call_id == made:
            self._made.add(made)
        self._open.setdefault(name, []).append(call_id)
        return call_id

    def result(self, name: str, said: str | None) -> str:
        """The id of the call that the next result answers: without an id the first one by that name, best one without."""
        waiting = self._open.get(name)
        if waiting and (said is None or said in waiting):
            return waiting.pop(waiting.index(self._first(waiting) if said is None else said))
        if said is None or said == f"{self._base}_{self._count}":
            return self._next()
        return said

    def tell_call(self, name: str, call_id: str) -> str | None:
        """The id to write for a call; None: a reader makes it."""
        made = f"{self._base}_{self._count}"
        self.call(name, call_id)
        return None if call_id == made else call_id

    def tell_result(self, name: str, call_id: str) -> str | None:
        """The id to write for a result; None: a reader finds it, as that of a call that has none in the body either."""
        waiting = self._open.get(name)
        found = self._first(waiting) if waiting else None
        made = f"{self._base}_{self._count}" if found is None else found
        self.result(name, call_id)
        return None if call_id == made and (found is None or found in self._made) else call_id

    def _first(self, waiting: list[str]) -> str:
        return next((call_id for call_id in waiting if call_id in self._made), waiting[0])

    def _next(self) -> str:
        self._count += 1
        return f"{self._base}_{self._count - 1}"


def result_text(response: Json, where: str) -> tuple[bool, str]:
    """Whether a tool failed, and what it said, from a non-empty `response`."""
    if len(response) == 1:
        ((key, value),) = response.items()
        if key in _KEYS and isinstance(value, str) and _embedded(value) is None:
            return key == "error", value
        if key == "error" and isinstance(value, dict) and value and not (len(value) == 1 and _KEYS & value.keys()):
            return True, json_text(value, where)
    return False, json_text(response, where)


def result_response(failed: bool, text: str | None) -> Json:
    """The `response` that says it; the inverse of `result_text`. None: the tool said no text."""
    if text is None:
        return {"error": ""} if failed else {}
    said = _embedded(text)
    if failed:
        return {"error": text if said is None else said}
    return {"output": text} if said is None else said


def _embedded(text: str) -> Json | None:
    """The object that stands for a text: the one that `result_text` reads as just this text."""
    value = json_object(text) if text.startswith('{"') else None
    return value if value and result_text(value, "") == (False, text) else None
