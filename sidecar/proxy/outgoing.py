"""The body as an arm gets it: another model, parameters, the variant's system prompt, and our question about usage.

A prompt that cannot be put in place makes the exchange no unit of its experiment: it goes to the variant's arm with the
prompt as it came, the row has no `rollout_id`, and `llm_sidecar_unvaried_total` counts it. Where one variant edits prompts
the others have an edit that changes nothing, so that the same calls are left out on all sides.
"""

from functools import partial
from typing import Final

from msgspec.structs import replace

from sidecar.core.types import SELECTABLE, Decision, Facts
from sidecar.core.variants import rewrite
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane
from sidecar.wire.json_edit import RequestView, edit_request
from sidecar.wire.system_prompt import edit_system

_ASKABLE: Final = frozenset({"chat", "completions"})


def outgoing(
    origin: Origin, facts: Facts, decision: Decision, body: bytes, view: RequestView | None, seen: RequestView | None
) -> tuple[bytes, bool]:
    """The body for this decision's arm, and whether it asks for usage that the client's does not. `view` is what was read of
    the client's body (None: it goes as it came), `seen` what is known of `body`, in which `varied` may have put a prompt."""
    if view is None or facts.endpoint not in SELECTABLE:
        return body, False
    asked = facts.stream and facts.endpoint in _ASKABLE and not view.include_usage and origin.ask_usage
    in_path = facts.endpoint == "generate"
    model = decision.model if decision.model != facts.model and not in_path else None
    if model is not None or asked or decision.params:
        params = (*origin.provider.asks, *decision.params) if asked else decision.params
        body = edit_request(body, model=model, params=params, ask_usage=asked, view=seen)
    return body, asked


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
