"""What Mistral's server refuses in the messages of a chat call, said as it takes it.

Ids of calls have nine letters and digits there; a user does not speak right behind a tool, nor a system behind a tool or an
assistant; what an assistant thought or refused has no member of its own. Messages of OpenAI's kind that break these rules
are answered with 400 or 422.

What it does not know: members of a call besides its messages (`providers`).
"""

import re
from hashlib import sha256
from typing import Final

from sidecar.wire.neutral import Json, Report

_ID: Final = re.compile(r"[a-zA-Z0-9]{9}")
_BETWEEN: Final = "OK."  # of an assistant, who may not say nothing


def fit(messages: list[Json], report: Report) -> list[Json]:
    """The messages as Mistral takes them. Equal messages give equal ones; what was changed besides ids is told."""
    said: list[Json] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if message["role"] == "system" and said and said[-1]["role"] in ("assistant", "tool"):
            front = next(place for place, one in enumerate(said) if one["role"] != "system")
            said.insert(front, message)  # to the other instructions, as where a format has one place for them
            report.map(where)
            continue
        if said and said[-1]["role"] == "tool" and message["role"] == "user":
            said.append({"role": "assistant", "content": _BETWEEN})
            report.map(where)
        if message["role"] == "assistant":
            _speak(message, where, report)
            if not message["content"] and "tool_calls" not in message:
                continue
        for call in message.get("tool_calls", ()):
            call["id"] = _id(call["id"])
        if "tool_call_id" in message:
            message["tool_call_id"] = _id(message["tool_call_id"])
        said.append(message)
    return said


def _speak(message: Json, where: str, report: Report) -> None:
    """Thoughts of earlier turns are left out, with the turn where it has nothing else; a refusal is a text."""
    if message.pop("reasoning_content", None) is not None:
        report.map(f"{where}.reasoning_content")
    refusal = message.pop("refusal", None)
    if refusal is not None:
        message["content"] = message["content"] or refusal
        report.map(f"{where}.refusal")


def _id(said: str) -> str:
    return said if _ID.fullmatch(said) else sha256(said.encode("utf-8", "replace")).hexdigest()[:9]
