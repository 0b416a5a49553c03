"""The body as an arm gets it: another model, parameters, the variant's system prompt, and our question about usage.

A prompt that cannot be put in place makes the exchange no unit of its experiment: it goes to the variant's arm with the
prompt as it came, the row has no `rollout_id`, and `llm_sidecar_unvaried_total` counts it. Where one variant edits prompts
the others have an edit that changes nothing, so that the same calls are left out on all sides.

Gemini has the parameters that everybody has in `generationConfig`, and refuses them elsewhere: that is where they are put.
"""

from functools import partial
from typing import Final, NamedTuple

from msgspec.structs import replace

from sidecar.core.types import SELECTABLE, Decision, Endpoint, Facts
from sidecar.core.variants import rewrite
from sidecar.proxy.body import Parts
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane
from sidecar.wire.json_edit import edit_parts, edit_request
from sidecar.wire.json_scan import MemberScanner
from sidecar.wire.request_view import RequestView
from sidecar.wire.system_prompt import edit_system

ASKABLE: Final = frozenset({"chat", "completions"})  # endpoints whose streams can be asked for usage
_GENERATION: Final = {
    "temperature": "temperature", "top_p": "topP", "top_k": "topK", "seed": "seed", "max_tokens": "maxOutputTokens",
    "max_completion_tokens": "maxOutputTokens", "max_output_tokens": "maxOutputTokens",
}  # fmt: skip
_SPELLED: Final = {"topP": "top_p", "topK": "top_k", "maxOutputTokens": "max_output_tokens"}  # Google reads both
_PLACES: Final = (b"generationConfig", b"generation_config")

Params = tuple[tuple[str, bytes], ...]  # (member, JSON text)


class Came(NamedTuple):
    """A body as it came, but for the prompt that `varied` may have put in it."""

    body: bytes
    view: RequestView | None  # what was read of the client's; None: it goes as it came
    seen: RequestView | None  # what is known of this one


def outgoing(
    origin: Origin, facts: Facts, decision: Decision, came: Came, *, ask_usage: bool
) -> tuple[bytes | Parts, bool]:
    """The body for this decision's arm, in parts where it is large and changed, and whether it asks for usage that the
    client's does not (`ask_usage`: it may)."""
    body, view, seen = came
    if view is None or facts.endpoint not in SELECTABLE:
        return body, False
    asked = facts.stream and facts.endpoint in ASKABLE and view.askable and ask_usage
    in_path = facts.endpoint == "generate"
    model = decision.model if decision.model != facts.model and not in_path else None
    if (
        model is None
        and view.model != facts.model
        and not in_path
        and not facts.path.startswith(origin.provider.prefixes)
    ):
        model = facts.model  # the path said it, and the arm has another path
    if model is not None or asked or decision.params:
        params = (*origin.provider.asks, *decision.params) if asked else decision.params
        params = placed(facts.endpoint, body, params, seen)
        if seen is not None and seen.layout is not None:
            return tuple(edit_parts(body, model=model, params=params, ask_usage=asked, view=seen)), asked
        body = edit_request(body, model=model, params=params, ask_usage=asked, view=seen)
    return body, asked


def placed(endpoint: Endpoint, body: bytes, params: Params, view: RequestView | None) -> Params:
    """The parameters as members of this body's top level. `view` is what is known of the body."""
    inner = (
        {_GENERATION[name]: value for name, value in params if name in _GENERATION} if endpoint == "generate" else {}
    )
    if not inner:
        return params
    rest = {name: value for name, value in params if name not in _GENERATION}
    scanner = MemberScanner(body).finish() if view is None or view.layout is None else view.layout
    said = {scanner.key(one): body[one.start : one.end] for one in scanner.members if scanner.key(one) in _PLACES}
    place = next((name for name in _PLACES if name in said), _PLACES[0])
    held = rest.get(place.decode(), said.get(place, b""))
    if held[:1] != b"{":
        held = b"{}"
    named = [(_spelled(name, held), value) for name, value in inner.items()]
    return tuple((rest | {place.decode(): edit_request(held, model=None, params=named)}).items())


def _spelled(name: str, held: bytes) -> str:
    """The member as this configuration spells it: given in both ways it would be refused."""
    other = _SPELLED.get(name, name)
    return other if b'"%b"' % other.encode() in held else name


def varied(
    plane: Plane, facts: Facts, decision: Decision, body: bytes, view: RequestView | None
) -> tuple[bytes, RequestView | None, Decision]:
    """The body with the variant's prompt, what is known of it then, and the decision as it is in force."""
    if not decision.system or view is None:
        return body, view, decision
    made = _varied(plane, facts, decision, body, view)
    if made is None:
        plane.books.unvaried += 1
        return body, view, replace(decision, system=(), rollout_id=None, rollout_step=None)
    return *made, decision


def _varied(
    plane: Plane, facts: Facts, decision: Decision, body: bytes, view: RequestView
) -> tuple[bytes, RequestView | None] | None:
    try:
        return edit_system(body, facts.endpoint, partial(rewrite, decision.system), view)
    except Exception as error:  # noqa: BLE001 - texts of others may hit a fault of ours; the call may not suffer
        plane.on_bug("variant", error)
        return None
