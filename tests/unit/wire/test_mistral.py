"""Calls of other formats to Mistral's server: nothing in them that it answers with 400 or 422."""

import re
from typing import Any

import orjson

from sidecar.wire.neutral import Format, Report
from sidecar.wire.providers import PROVIDERS
from sidecar.wire.translate import read, say

Json = dict[str, Any]
ID = re.compile(r"[a-zA-Z0-9]{9}")


def sent(form: Format, body: Json, provider: str = "mistral") -> tuple[Json, Report]:
    """What goes up of a client's call."""
    report = Report()
    asked = read(orjson.dumps(body), form, "m", stream=False)
    return orjson.loads(say(asked, "chat", PROVIDERS[provider], "m", report)), report


def messages(*turns: tuple[str, list[Json]]) -> Json:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": role, "content": content} for role, content in turns]}


def use(call_id: str) -> Json:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": {}}


def result(call_id: str) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": "1"}


TEXT = {"type": "text", "text": "go on"}


def test_ids_of_calls() -> None:
    """One that Mistral made stays; any other one has the same nine letters in the call and in its result."""
    ids = ["a1B2c3D4e", "toolu_01A09q90qw90lq917835lq9", "call_0"]
    body, report = sent(
        "messages", messages(("assistant", [use(one) for one in ids]), ("user", [result(one) for one in ids]))
    )
    called = [call["id"] for call in body["messages"][0]["tool_calls"]]
    assert called == [one["tool_call_id"] for one in body["messages"][1:]]
    assert called[0] == ids[0]
    assert all(ID.fullmatch(one) for one in called)
    assert len({*called}) == 3
    assert report.lost == []
    plain, _ = sent("messages", messages(("assistant", [use(ids[1])])), "openai")
    assert plain["messages"][0]["tool_calls"][0]["id"] == ids[1]


def test_a_user_does_not_speak_right_behind_a_tool() -> None:
    """Claude Code puts reminders behind results."""
    turns = messages(("user", [TEXT]), ("assistant", [use("c")]), ("user", [result("c"), TEXT]))
    body, report = sent("messages", turns)
    assert [one["role"] for one in body["messages"]] == ["user", "assistant", "tool", "assistant", "user"]
    assert body["messages"][3]["content"]
    assert body["messages"][4]["content"] == "go on"
    assert report.mapped == ["messages[3]"]
    assert [one["role"] for one in sent("messages", turns, "openai")[0]["messages"]][-2:] == ["tool", "user"]


def test_a_system_does_not_speak_behind_a_tool_or_an_assistant() -> None:
    """Codex puts instructions of its developer amid the talk: they join the others. Behind a user they stay."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    given = [
        {"role": "developer", "content": "1"},
        {"role": "user", "content": "2"},
        {"role": "developer", "content": "3"},
        {"role": "assistant", "content": "4"},
        {"role": "developer", "content": "5"},
        {"role": "user", "content": "6"},
        call,
        {"type": "function_call_output", "call_id": "c", "output": "7"},
        {"role": "developer", "content": "8"},
    ]
    body, report = sent("responses", {"model": "m", "input": given})
    told = "".join(one["content"] or "" for one in body["messages"])
    assert told == "15823467"
    roles = [one["role"] for one in body["messages"]]
    assert roles == ["system", "system", "system", "user", "system", "assistant", "user", "assistant", "tool"]
    assert (report.lost, report.mapped) == ([], ["messages[4]", "messages[8]"])


def test_thoughts_and_refusals_have_no_members() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    turns = messages(("user", [TEXT]), ("assistant", [thought, TEXT]), ("user", [TEXT]), ("assistant", [thought]))
    body, report = sent("messages", turns)
    assert body["messages"] == [{"role": role, "content": "go on"} for role in ("user", "assistant", "user")]
    assert report.lost == []
    assert len(report.mapped) == 2
    refused = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    said, report = sent("responses", {"model": "m", "input": [{"role": "user", "content": "x"}, refused]})
    assert said["messages"][1] == {"role": "assistant", "content": "no"}
    assert report.mapped == ["messages[1].refusal"]


def test_members_that_are_refused_are_not_sent() -> None:
    """Codex says `store: false`, which asks for nothing, but is refused all the same; the seed has another name."""
    body, report = sent("responses", {"model": "m", "input": "x", "store": False, "text": {"verbosity": "medium"}})
    assert not {"store", "verbosity"} & body.keys()
    assert report.lost == []
    _, report = sent("responses", {"model": "m", "input": "x", "store": True})
    assert report.lost == ["store"]
    seeded = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {"seed": 7}}
    body, report = sent("generate", seeded)
    assert body["random_seed"] == 7
    assert "seed" not in body
    assert report.lost == []
