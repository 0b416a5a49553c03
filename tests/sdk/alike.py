"""When two answers of one SDK are the same: equal types and members, but for what belongs to the provider that made them.

Left out are ids and times, how a provider counts the prompt (each has its own words around it), and what only one of them
says of itself (service tier, fingerprint, safety ratings, traffic). A member that is absent, null or an empty list is the
same. How many tokens were generated has to be equal.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

VARYING = frozenset(
    {
        *(
            "id",
            "created",
            "created_at",
            "completed_at",
            "item_id",
            "call_id",
            "tool_call_id",
            "tool_use_id",
            "response_id",
        ),
        *("service_tier", "system_fingerprint", "sequence_number", "safety_ratings", "citations", "obfuscation"),
        *("create_time", "sdk_http_response", "index", "avg_logprobs", "traffic_type", "inference_geo"),
        *(
            "signature",
            "thought_signature",
            "encrypted_content",
            "thinking_blocks",
            "automatic_function_calling_history",
        ),
    }
)
GENERATED = (
    "completion_tokens",
    "output_tokens",
    "candidates_token_count",
)  # of a usage: the one count that is compared


def stable(value: Any) -> Any:
    """`value` without what may differ; typed objects become (type name, members)."""
    if type(value).__name__ == "Unset":  # Mistral's word for absent
        return None
    if isinstance(value, BaseModel):
        return type(value).__name__.partition("[")[0], stable(_members(value))
    if isinstance(value, Mapping):
        members = {key: _usage(member) if "usage" in key else stable(member) for key, member in value.items()}
        return {
            key: member
            for key, member in members.items()
            if key not in VARYING and not key.startswith("_") and not _empty(member)
        }
    if isinstance(value, list | tuple):
        members = [stable(member) for member in value]
        return [member for member in members if not _only_signs(member)]
    return value


def differences(got: Any, own: Any, path: str = "") -> list[str]:
    """Where two answers differ, as sentences; nothing where they are the same."""
    if not path:
        got, own = stable(got), stable(own)
    if isinstance(got, dict) and isinstance(own, dict):
        names = sorted(got.keys() | own.keys())
        return [told for name in names for told in differences(got.get(name), own.get(name), f"{path}.{name}")]
    if isinstance(got, list | tuple) and isinstance(own, list | tuple) and len(got) == len(own):
        pairs = zip(got, own, strict=True)
        return [told for at, (one, two) in enumerate(pairs) for told in differences(one, two, f"{path}[{at}]")]
    return [] if got == own else [f"{path or 'answer'}: {got!r} instead of {own!r}"]


def _members(value: BaseModel) -> dict[str, Any]:
    return dict(value.__dict__) | (value.__pydantic_extra__ or {})


def _usage(value: Any) -> Any:
    members = _members(value) if isinstance(value, BaseModel) else value
    if not isinstance(members, Mapping):
        return None
    said = next((members[name] for name in GENERATED if members.get(name) is not None), None)
    return said if said is None else said + (members.get("thoughts_token_count") or 0)  # Google counts these apart


def _only_signs(member: Any) -> bool:
    """A thought without words carries the signature that Google's models put on a text."""
    return isinstance(member, tuple) and member[1] == {"type": "thinking"}


def _empty(value: Any) -> bool:
    return value is None or value == [] or value == {} or value == ""


def calls(value: Any) -> list[Any]:
    """All tool calls in a stable answer: (name, what it is called with), whatever stands around them."""
    if isinstance(value, dict):
        given = next((value[name] for name in ("arguments", "input", "args") if name in value), None)
        if given is not None and "name" in value:
            return [(value["name"], given)]
        value = list(value.values())
    return [one for member in value for one in calls(member)] if isinstance(value, list | tuple) else []


def unlike(case: str, arm: str, got: Any, own: Any) -> list[str]:
    """The differences that nothing explains. Cohere's models say what they plan before they call a tool; others need not."""
    if arm == "cohere" and "tool" in case and calls(stable(own)):
        got, own = calls(stable(got)), calls(stable(own))
    return differences(got, own)


def failure(call: Callable[[], Any]) -> tuple[str, Any]:
    """The type and the status of the exception that a call raises; AssertionError when it raises none."""
    try:
        call()
    except Exception as error:
        code = getattr(error, "code", None)
        return type(error).__name__, getattr(error, "status_code", code if isinstance(code, int) else None)
    raise AssertionError("the call was answered")
