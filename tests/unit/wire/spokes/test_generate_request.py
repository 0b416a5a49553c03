"""Requests of Gemini's format: what each member means to others, and how other formats' calls are said."""

import base64
from typing import Any

import orjson
import pytest

from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    AnyPart,
    Media,
    Message,
    Opaque,
    Output,
    Reasoning,
    Refusal,
    Report,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from sidecar.wire.spokes.generate.calls import CallIds, result_response, result_text
from sidecar.wire.spokes.generate.request import read_request, write_request
from sidecar.wire.spokes.generate.schema import json_schema

Json = dict[str, Any]
HI = {"role": "user", "parts": [{"text": "hi"}]}


def asked(**members: Any) -> Request:
    """A call of an OpenAI client."""
    given: Json = {"format": "chat", "model": "gemini-2.5-pro", "messages": [user("hi")]}
    return Request(**{**given, **members})


def user(*parts: AnyPart | str) -> Message:
    return Message(role="user", parts=[Text(text=part) if isinstance(part, str) else part for part in parts])


def model(*parts: AnyPart) -> Message:
    return Message(role="assistant", parts=list(parts))


def written(request: Request) -> tuple[Json, list[str], list[str]]:
    report = Report()
    return write_request(request, report), report.lost, report.mapped


def of(body: Json, **more: Any) -> Request:
    return read_request({"contents": [HI], **body, **more})


# ---- reading


def test_one_element_may_stand_alone() -> None:
    request = read_request(
        {"system_instruction": {"role": "user", "parts": {"text": "be brief"}}, "contents": {"parts": {"text": "hi"}},
         "tools": {"google_search": {}, "function_declarations": {"name": "f"}}}
    )  # fmt: skip
    assert request.messages == [Message(role="system", parts=[Text(text="be brief")]), user("hi")]
    assert request.tools == [Tool(name="f"), Tool(name="googleSearch", opaque={"googleSearch": {}})]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"contents": [{"role": "assistant", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"role": 3}]}, "contents[0].role"),
        ({"contents": [{"parts": [{"text": 3}]}]}, "contents[0].parts[0].text"),
        ({"contents": [{"parts": ["hi"]}]}, "contents[0].parts[0]"),
        ({"contents": 3}, "contents"),
        ({"generationConfig": {"topK": "x"}}, "generationConfig.topK"),
        ({"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"properties": 3}}]}]}, "properties"),
        ({"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"anyOf": {}}}]}]}, "anyOf"),
        ({"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"anyOf": [3]}}]}]}, "anyOf[0]"),
        ({"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": 3}}]}]}, "parameters.type"),
        ({"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": ["A", 3]}}]}]}, "parameters.type"),
        ({"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"a": "\ud800"}}}]}]}, "functionCall.args"),
    ],
)
def test_a_wrong_type_is_named_by_its_place(body: Json, where: str) -> None:
    with pytest.raises(TranslationError, match="expected") as raised:
        read_request(body)
    assert where in str(raised.value)


def test_deep_schemas_are_refused() -> None:
    schema: Json = {}
    for _ in range(150):
        schema = {"items": schema}
    with pytest.raises(TranslationError, match="at most 100 levels"):
        json_schema(schema, "parameters")


def test_calls_without_ids_are_paired_by_name_and_order() -> None:
    call = {"functionCall": {"name": "f"}}
    result = {"functionResponse": {"name": "f", "response": {"output": "1"}}}
    stray = {"functionResponse": {"name": "g", "response": {}}}
    request = read_request({"contents": [{"role": "model", "parts": [call, call]}, {"parts": [result, result, stray]}]})
    assert [part.id for part in request.messages[0].parts if isinstance(part, ToolCall)] == ["call_0", "call_1"]
    results = [part.call_id for part in request.messages[1].parts if isinstance(part, ToolResult)]
    assert results == ["call_0", "call_1", "call_2"]
    assert write_request(request, Report())["contents"][1]["parts"][0]["functionResponse"].get("id") is None


def test_a_result_without_id_answers_the_first_call_by_its_name() -> None:
    """The SDK's own builder of results takes no id."""
    calls = [{"functionCall": {"name": "f", "id": "toolu_1"}}, {"functionCall": {"name": "f", "id": "toolu_2"}}]
    result = {"functionResponse": {"name": "f", "response": {}}}
    request = read_request({"contents": [{"role": "model", "parts": calls}, {"parts": [result, result]}]})
    results = [part.call_id for part in request.messages[1].parts if isinstance(part, ToolResult)]
    assert results == ["toolu_1", "toolu_2"]
    again = write_request(request, Report())["contents"][1]["parts"][0]
    assert again == {"functionResponse": {"id": "toolu_1", "name": "f", "response": {}}}


def test_an_id_that_only_counts_is_no_id() -> None:
    ids = CallIds()
    assert ids.call("f", "call_0") == "call_0"
    assert ids.result("f", "call_0") == "call_0"
    assert ids.result("f", "call_1") == "call_1"
    assert ids.call("f", None) == "call_2"
    assert ids.result("f", "other") == "other"
    assert ids.tell_call("f", "x") == "x"
    assert ids.tell_result("f", "call_2") is None
    assert ids.tell_result("g", "call_4") is None
    assert ids.tell_result("g", "y") == "y"


@pytest.mark.parametrize(
    ("response", "failed", "text"),
    [
        ({"output": "sunny"}, False, "sunny"),
        ({"result": "sunny"}, False, '{"result":"sunny"}'),
        ({"error": "no such city"}, True, "no such city"),
        ({"error": {"code": 3}}, True, '{"code":3}'),
        ({"error": {"error": "a"}}, False, '{"error":{"error":"a"}}'),
        ({"error": 3}, False, '{"error":3}'),
        ({"output": '{"a":1}'}, False, '{"output":"{\\"a\\":1}"}'),
        ({"a": 1, "b": None}, False, '{"a":1,"b":null}'),
    ],
)
def test_what_a_tool_answered_is_a_text_and_back(response: Json, failed: bool, text: str) -> None:
    assert result_text(response, "") == (failed, text)
    assert result_response(failed, text) == response


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"a": 1}', '{"a":1}', '{"output":"x"}', '{"error":{"x":1}}', '{"a'])
def test_a_text_that_a_tool_answered_comes_back_byte_for_byte(text: str) -> None:
    for failed in (False, True):
        response = result_response(failed, text)
        assert result_text(response, "") == (failed, text)


def test_a_result_without_a_name() -> None:
    body = {"contents": [{"role": "user", "parts": [{"functionResponse": {"id": "x", "response": {}}}]}]}
    assert write_request(read_request(body), Report()) == body


def test_a_tool_that_failed_without_a_word() -> None:
    assert result_response(True, None) == {"error": ""}
    assert result_response(False, None) == {}


def test_thoughts_and_where_their_signatures_stand() -> None:
    parts = [
        {"text": "hm", "thought": True, "thoughtSignature": "QQ"},
        {"text": "a", "thought_signature": "Qg"},
        {"thoughtSignature": "Qw"},
        {"thought": True},
        {"text": ""},
        {},
        {"videoMetadata": {}},
    ]
    request = read_request({"contents": [{"role": "model", "parts": parts}]})
    assert request.messages[0].parts == [
        Thinking(text="hm", signature="QQ"),
        Text(text="a"),
        Thinking(signature="Qg"),
        Thinking(signature="Qw"),
        Thinking(),
        Text(text=""),
        Opaque(value={}),
        Opaque(value={"videoMetadata": {}}),
    ]


@pytest.mark.parametrize(
    ("part", "kind", "place"),
    [
        ({"inlineData": {"mimeType": "image/png", "data": "-_-_"}}, "image", {"data": "+/+/"}),
        ({"inlineData": {"mimeType": "application/pdf"}}, "document", {"data": ""}),
        ({"fileData": {"fileUri": "gs://a/b.wav"}}, "audio", {"file_id": "gs://a/b.wav"}),
        ({"fileData": {"fileUri": "https://e.com/a.png?x"}}, "image", {"url": "https://e.com/a.png?x"}),
        ({"fileData": {"fileUri": "https://youtu.be/a"}}, "video", {"url": "https://youtu.be/a"}),
        ({"fileData": {"fileUri": "http://[bad"}}, "document", {"url": "http://[bad"}),
        ({"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/a"}}, "document",
         {"file_id": "https://generativelanguage.googleapis.com/v1beta/files/a"}),
    ],
)  # fmt: skip
def test_media(part: Json, kind: str, place: Json) -> None:
    media = read_request({"contents": [{"parts": [part]}]}).messages[0].parts[0]
    assert isinstance(media, Media)
    assert media.kind == kind
    assert {name: getattr(media, name) for name in place} == place


def test_unknown_members_of_media_stay_where_they_were() -> None:
    parts = [
        {"inlineData": {"mimeType": "image/png", "data": "QQ==", "more": 1}, "thoughtSignature": "Qg"},
        {"fileData": {"mimeType": "image/png"}},
        {"functionCall": {"name": "f", "args": {}, "willContinue": True}, "text": "x"},
    ]
    body = {"contents": [{"role": "model", "parts": parts}]}
    assert write_request(read_request(body), Report()) == body


def test_a_schema_of_gemini_becomes_json_schema() -> None:
    schema = {
        "type": "OBJECT", "nullable": True, "property_ordering": ["b", "a", "gone"], "min_properties": "1",
        "properties": {
            "a": {"type": "STRING", "format": "enum", "enum": ["x"], "nullable": True, "example": "x", "title": None},
            "b": {"type": "ARRAY", "items": {"ref": "#/defs/c"}, "maxItems": "5", "minItems": 1},
            "c": {"anyOf": [{"type": "INTEGER"}, True], "nullable": True},
            "d": {"type": ["STRING", "NULL"], "nullable": True},
            "e": {"type": ["STRING"], "nullable": True},
            "f": {"type": "TYPE_UNSPECIFIED", "nullable": True, "enum": [None]},
            "g": {"anyOf": [{"type": "null"}], "nullable": True},
        },
        "defs": {"c": {"type": "NUMBER"}}, "additional_properties": False,
    }  # fmt: skip
    read = json_schema(schema, "parameters")
    assert list(read["properties"]) == ["b", "a", "c", "d", "e", "f", "g"]
    assert read == {
        "type": ["object", "null"],
        "minProperties": 1,
        "properties": {
            "a": {"type": ["string", "null"], "enum": ["x", None], "examples": ["x"]},
            "b": {"type": "array", "items": {"$ref": "#/defs/c"}, "maxItems": 5, "minItems": 1},
            "c": {"anyOf": [{"type": "integer"}, True, {"type": "null"}]},
            "d": {"type": ["string", "null"]},
            "e": {"type": ["string", "null"]},
            "f": {"enum": [None]},
            "g": {"anyOf": [{"type": "null"}]},
        },
        "$defs": {"c": {"type": "number"}},
        "additionalProperties": False,
    }
    assert json_schema(read, "parameters") == read


def test_schemas_in_both_ways_of_saying_them() -> None:
    tools = [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}, {"name": "g"}]}]
    config = {"responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"}}
    request = of({"tools": tools, "generationConfig": config})
    assert [tool.parameters for tool in request.tools] == [{"type": "object"}, None]
    assert request.output == Output(schema={"type": "object"})
    body = write_request(request, Report())
    assert body["tools"][0]["functionDeclarations"][0] == {"name": "f", "parametersJsonSchema": {"type": "object"}}
    assert body["generationConfig"]["responseJsonSchema"] == {"type": "object"}
    first = of({"generationConfig": {"responseMimeType": "application/json", "_responseJsonSchema": {"type": "null"}}})
    assert first.output == Output(schema={"type": "null"})


def test_defaults_say_nothing() -> None:
    config = {"responseMimeType": "text/plain", "responseLogprobs": False, "topK": 40.0, "thinkingConfig": {}}
    config["responseModalities"] = ["TEXT"]
    request = of({"generationConfig": config, "serviceTier": "unspecified", "labels": None, "toolConfig": {}})
    assert (request.output, request.logprobs, request.top_k, request.tool_choice) == (None, None, 40, None)
    assert request.extra == {}
    assert write_request(request, Report())["generationConfig"] == {"topK": 40, "thinkingConfig": {}}
    standard = of({"serviceTier": "standard"})
    assert standard.service_tier == "default"
    assert write_request(standard, Report())["serviceTier"] == "standard"


def test_a_name_in_both_spellings_counts_once() -> None:
    assert of({"generationConfig": {"topK": 3, "top_k": None, "max_output_tokens": 5}}).top_k == 3


def test_thinking() -> None:
    config = {"thinkingBudget": -1, "thinkingLevel": "low", "includeThoughts": True}
    read = of({"generationConfig": {"thinkingConfig": config}})
    assert read.reasoning == Reasoning(effort="low", adaptive=True, show=True)
    assert write_request(read, Report())["generationConfig"]["thinkingConfig"] == config | {"thinkingLevel": "LOW"}


# ---- writing other formats' calls


def test_system_texts_go_to_their_one_place() -> None:
    messages = [
        Message(role="system", parts=[Text(text="a")]),
        Message(role="developer", parts=[Text(text="b")]),
        user("hi"),
        Message(role="system", parts=[Text(text="c")]),
    ]
    body, lost, mapped = written(asked(messages=messages))
    assert body["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}
    assert body["contents"] == [HI]
    assert (lost, mapped) == ([], ["messages[3]"])


def test_what_is_empty_is_not_said() -> None:
    """The service refuses texts, turns and instructions that are."""
    system = Message(role="system", parts=[Text(text="")])
    said, lost, _ = written(asked(format="chat", messages=[system, user("", "a"), model(), user("")]))
    assert said == {"contents": [{"role": "user", "parts": [{"text": "a"}]}]}
    assert lost == []


def test_a_system_text_alone_is_said_by_the_user() -> None:
    body, _, mapped = written(asked(messages=[Message(role="system", parts=[Text(text="hi")])]))
    assert body == {"contents": [HI]}
    assert mapped == ["messages[0]"]
    assert write_request(read_request({"systemInstruction": {"parts": []}}), Report()) == {
        "systemInstruction": {"parts": []},
        "contents": [],
    }


def test_parallel_results_stay_together() -> None:
    def result(call: str) -> Message:
        return Message(role="tool", parts=[ToolResult(call_id=call, parts=[Text(text="1"), Text(text="2")])])

    calls = [model(Text(text="so")), model(ToolCall(id="a", name="f", arguments="")), model(ToolCall(id="b", name="g"))]
    body, lost, mapped = written(
        asked(messages=[user("hi"), *calls, result("a"), result("b"), result("c"), user("go")])
    )
    assert body["contents"][1:] == [
        {"role": "model", "parts": [
            {"text": "so"},
            {"functionCall": {"id": "a", "name": "f", "args": {}}},
            {"functionCall": {"id": "b", "name": "g", "args": {}}},
        ]},
        {"role": "user", "parts": [
            {"functionResponse": {"id": name, "name": tool, "response": {"output": "1\n2"}}}
            for name, tool in (("a", "f"), ("b", "g"), ("c", "unknown"))
        ]},
        {"role": "user", "parts": [{"text": "go"}]},
    ]  # fmt: skip
    assert lost == ["messages[6].parts[0].name"]
    assert mapped == [f"messages[{number}].parts[0]" for number in (4, 5, 6)]


def test_two_turns_of_a_model_without_calls_stay_two() -> None:
    body, _, _ = written(asked(messages=[model(Text(text="a")), model(Text(text="b"))]))
    assert len(body["contents"]) == 2


def test_arguments_that_are_no_object() -> None:
    body, _, mapped = written(asked(messages=[model(ToolCall(id="a", name="f", arguments="[1]"))]))
    assert body["contents"][0]["parts"][0]["functionCall"]["args"] == {"arguments": "[1]"}
    assert mapped == ["messages[0].parts[0].arguments"]


def test_what_is_too_deep_stays_a_text() -> None:
    deep = '{"a":' + "[" * 300 + "]" * 300 + "}"
    parts: list[AnyPart] = [
        ToolCall(id="a", name="f", arguments=deep),
        ToolCall(id="b", name="f", arguments='{"a":[' + "[]," * 200 + "1]}"),
    ]
    body, _, _ = written(
        asked(messages=[model(*parts), user(ToolResult(call_id="a", name="f", parts=[Text(text=deep)]))])
    )
    orjson.dumps(body)
    assert body["contents"][0]["parts"][0]["functionCall"]["args"] == {"arguments": deep}
    assert body["contents"][1]["parts"][0]["functionResponse"]["response"] == {"output": deep}


def test_results_hold_texts_and_media_only() -> None:
    image = Media(kind="image", media_type="image/png", data="QQ==")
    told: list[AnyPart] = [
        Text(text="a", cache="5m"), image, Opaque(value={}), Media(kind="image", file_id="f"), Refusal(text="no"),
        Text(text="b", extra={"x": 1}),
    ]  # fmt: skip
    result = ToolResult(call_id="a", name="f", parts=told, failed=True)
    body, lost, mapped = written(asked(messages=[user(result)]))
    response = body["contents"][0]["parts"][0]["functionResponse"]
    assert response["response"] == {"error": "a\nb"}
    assert response["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "QQ=="}}]
    where = "messages[0].parts[0].parts"
    assert f"{where}[0].cache" in mapped
    assert lost == [f"{where}[2]", f"{where}[3]", f"{where}[4]", f"{where}[5].x"]


def test_media_of_other_formats() -> None:
    parts = [
        Media(kind="image", url="https://e.com/a.webp", detail="high"),
        Media(kind="image", url="https://e.com/a", detail="auto"),
        Media(kind="document", text="plän", name="a.txt"),
        Media(kind="image", data="QQ=="),
        Media(kind="image", file_id="file-1"),
        Media(kind="image", url="data:image/svg+xml,<svg/>"),
    ]
    body, lost, mapped = written(asked(messages=[user(*parts)]))
    assert body["contents"][0]["parts"] == [
        {"fileData": {"mimeType": "image/webp", "fileUri": "https://e.com/a.webp"}},
        {"fileData": {"fileUri": "https://e.com/a"}},
        {"inlineData": {"mimeType": "text/plain", "data": base64.b64encode("plän".encode()).decode()}},
        {"inlineData": {"data": "QQ=="}},
    ]
    where = "messages[0].parts"
    assert lost == [f"{where}[0].detail", f"{where}[4]", f"{where}[5]"]
    assert mapped == [f"{where}[2].name"]


def test_thoughts_of_others_never_go_to_gemini() -> None:
    parts = [
        Thinking(text="a", signature="claude's"),
        Thinking(redacted="x"),
        Thinking(text="b"),
        Thinking(),
        Thinking(text="c", signature="QQ", origin="generate"),
        Refusal(text="no"),
        Opaque(value={"type": "x"}),
    ]
    body, lost, mapped = written(asked(format="messages", messages=[model(*parts)]))
    assert body["contents"][0]["parts"] == [
        {"text": "b", "thought": True},
        {"text": "c", "thought": True, "thoughtSignature": "QQ"},
        {"text": "no"},
    ]
    assert lost == ["messages[0].parts[6]"]
    assert mapped == [f"messages[0].parts[{number}]" for number in (0, 1, 5)]


def test_a_turn_of_foreign_thoughts_only_is_no_content() -> None:
    body, _, _ = written(asked(messages=[user("hi"), model(Thinking(text="a", signature="s"))]))
    assert body["contents"] == [HI]


@pytest.mark.parametrize("name", ["gemini-3-pro", "models/gemini-3.5-flash", "gemini-10"])
def test_gemini_3_wants_the_first_call_of_a_turn_signed(name: str) -> None:
    calls = [ToolCall(id="a", name="f"), ToolCall(id="b", name="f")]
    body, _, mapped = written(asked(model=name, messages=[user("hi"), model(*calls), model(Text(text="x"))]))
    signed = [part.get("thoughtSignature") for part in body["contents"][1]["parts"]]
    assert signed == ["skip_thought_signature_validator", None]
    assert mapped == ["messages[1].signature"]
    own = [ToolCall(id="a", name="f", signature="QQ")]
    assert written(asked(model=name, messages=[model(*own)]))[2] == []


def test_members_that_gemini_has_no_word_for() -> None:
    message = Message(role="user", parts=[Text(text="hi", cache="1h", extra={"a": 1})], name="Bo", extra={"b": 1})
    request = asked(
        messages=[message], logit_bias={"1": 1.0}, user="u", metadata={"a": "b"}, cache_key="k", cache_retention="24h",
        safety_identifier="s", store=True, verbosity="low", parallel_tools=False, extra={"c": 1, "d": None},
        service_tier="scale", seed=2**40, stop=list("abcdef"),
    )  # fmt: skip
    body, lost, mapped = written(request)
    assert body == {"contents": [HI], "generationConfig": {"stopSequences": list("abcde")}}
    assert lost == [
        "messages[0].parts[0].a", "messages[0].name", "messages[0].b", "seed", "stop[5]",
        "c", "logit_bias", "store", "verbosity",
    ]  # fmt: skip
    assert mapped == [
        "messages[0].parts[0].cache", "service_tier", "user", "metadata", "cache_key", "cache_retention",
        "safety_identifier",
    ]  # fmt: skip


def test_one_call_at_a_time_is_kept_elsewhere() -> None:
    assert written(asked(messages=[], parallel_tools=False))[1:] == ([], [])
    assert written(asked(messages=[], parallel_tools=False, tools=[Tool(name="f")]))[1:] == ([], ["parallel_tools"])


def test_neutral_values_are_no_loss() -> None:
    request = asked(
        n=1, presence_penalty=0, frequency_penalty=0.0, parallel_tools=True, store=False, service_tier="auto",
        tools=[Tool(name="f", strict=False)], logprobs=0, seed=7, temperature=1.5,
    )  # fmt: skip
    body, lost, mapped = written(request)
    assert body["generationConfig"] == {"temperature": 1.5, "seed": 7, "responseLogprobs": True}
    assert lost == mapped == []


def test_what_is_out_of_range_is_brought_into_it() -> None:
    body, lost, mapped = written(asked(temperature=2.5, n=3, logprobs=4, service_tier="flex"))
    assert body["generationConfig"] == {
        "temperature": 2, "candidateCount": 3, "responseLogprobs": True, "logprobs": 4,
    }  # fmt: skip
    assert body["serviceTier"] == "flex"
    assert (lost, mapped) == ([], ["temperature"])


def test_tools_of_other_formats() -> None:
    tools = [
        Tool(name="f", description="d", parameters={"type": "object"}, strict=True, cache="5m", extra={"x": 1}),
        Tool(name="free", custom=True, grammar={"syntax": "lark"}),
        Tool(name="plain", custom=True),
        Tool(name="web_search", opaque={"type": "web_search"}),
    ]
    body, lost, mapped = written(asked(tools=tools))
    free = {"type": "object", "properties": {"arguments": {"type": "string"}}, "required": ["arguments"]}
    assert body["tools"] == [
        {"functionDeclarations": [
            {"name": "f", "description": "d", "parametersJsonSchema": {"type": "object"}},
            {"name": "free", "parametersJsonSchema": free},
            {"name": "plain", "parametersJsonSchema": free},
        ]}
    ]  # fmt: skip
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    assert lost == ["tools[0].x", "tools[1].grammar", "tools[3]"]
    assert mapped == ["tools[0].cache", "tools[1]", "tools[2]", "tools[0].strict"]


@pytest.mark.parametrize(
    ("choice", "config", "mapped"),
    [
        (ToolChoice(mode="auto"), {"mode": "AUTO"}, []),
        (ToolChoice(mode="none", tools=["f"]), {"mode": "NONE"}, []),
        (ToolChoice(mode="required", tools=["f"]), {"mode": "ANY", "allowedFunctionNames": ["f"]}, []),
        (
            ToolChoice(mode="auto", tools=["f"]),
            {"mode": "VALIDATED", "allowedFunctionNames": ["f"]},
            ["tool_choice.tools"],
        ),
    ],
)
def test_choices(choice: ToolChoice, config: Json, mapped: list[str]) -> None:
    body, lost, told = written(asked(tools=[Tool(name="f")], tool_choice=choice))
    assert body["toolConfig"] == {"functionCallingConfig": config}
    assert (lost, told) == ([], mapped)


def test_a_strict_tool_that_may_be_called() -> None:
    request = asked(tools=[Tool(name="f", strict=True)], tool_choice=ToolChoice(mode="auto", extra={"x": 1}))
    body, lost, mapped = written(request)
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    assert (lost, mapped) == (["tool_choice.x"], ["tools[0].strict"])


@pytest.mark.parametrize(
    ("name", "reasoning", "config", "mapped"),
    [
        ("gemini-2.5-pro", Reasoning(effort="high"), {"thinkingBudget": 16384}, ["reasoning.effort"]),
        ("gemini-2.5-flash", Reasoning(effort="max"), {"thinkingBudget": 24576}, ["reasoning.effort"]),
        (
            "gemini-2.5-flash",
            Reasoning(budget_tokens=30000),
            {"includeThoughts": True, "thinkingBudget": 24576},
            ["reasoning.budget_tokens"],
        ),
        (
            "gemini-2.5-pro",
            Reasoning(budget_tokens=2000, show=False),
            {"includeThoughts": False, "thinkingBudget": 2000},
            [],
        ),
        ("gemini-2.5-pro", Reasoning(budget_tokens=0), {"thinkingBudget": 0}, []),
        ("gemini-2.5-pro", Reasoning(budget_tokens=0, effort="low"), {"thinkingBudget": 0}, ["reasoning.effort"]),
        ("gemini-3-pro", Reasoning(effort="high"), {"thinkingLevel": "HIGH"}, []),
        ("gemini-3-pro", Reasoning(effort="none"), {"thinkingLevel": "MINIMAL"}, ["reasoning.effort"]),
        ("gemini-3-pro", Reasoning(adaptive=True, show=True), {"includeThoughts": True, "thinkingBudget": -1}, []),
        ("gemini-3-pro", Reasoning(summary="auto"), {"includeThoughts": True}, ["reasoning.summary"]),
        ("gemini-3-pro", Reasoning(), None, []),
    ],
)
def test_how_much_to_think(name: str, reasoning: Reasoning, config: Json | None, mapped: list[str]) -> None:
    body, lost, told = written(asked(model=name, reasoning=reasoning))
    assert body.get("generationConfig", {}).get("thinkingConfig") == config
    assert (lost, told) == ([], mapped)


def test_the_form_of_the_answer() -> None:
    output = Output(schema={"type": "object"}, name="n", strict=True, description="d", extra={"x": 1})
    body, lost, mapped = written(asked(output=output))
    schema = {"description": "d", "type": "object"}
    assert body["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": schema}
    assert (lost, mapped) == (["output.x"], ["output.description"])
    assert written(asked(output=Output()))[0]["generationConfig"] == {"responseMimeType": "application/json"}


def test_the_pieces_of_a_foreign_turn_are_put_together_again() -> None:
    """The SDK keeps each chunk of a stream as a content of its own."""
    wrapped = base64.urlsafe_b64encode(b"llm-sidecar:messages:signature:ab+/?").decode()
    redacted = base64.b64encode(b"llm-sidecar:messages:redacted:zz").decode()
    pieces: list[Json] = [
        {"text": "th", "thought": True}, {"text": "ink", "thought": True}, {"text": "", "thoughtSignature": wrapped},
        {"text": "", "thoughtSignature": redacted}, {"text": "", "thoughtSignature": wrapped}, {"text": "a"}, {"text": "b"},
        {"text": "c", "x": 1}, {"text": "d"}, {"text": ""}, {"functionCall": {"name": "f"}},
    ]  # fmt: skip
    contents = [{"parts": [{"text": "hi"}]}, *({"role": "model", "parts": [piece]} for piece in pieces), {"parts": []}]
    request = read_request({"contents": contents})
    assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    assert request.messages[1].parts == [
        Thinking(text="think", signature="ab+/?", origin="messages"),
        Thinking(redacted="zz", origin="messages"),
        Thinking(signature="ab+/?", origin="messages"),
        Text(text="ab"),
        Text(text="c", extra={"x": 1}),
        Text(text="d"),
        ToolCall(id="call_0", name="f", arguments="{}"),
    ]


@pytest.mark.parametrize("inside", [b"messages:other:x", b"nobody:signature:x", b"messages", b"\xff:signature:x"])
def test_a_signature_that_only_looks_wrapped(inside: bytes) -> None:
    text = base64.b64encode(b"llm-sidecar:" + inside).decode()
    for signature in (text, text[:-1] + "\u00e9", text + "A"):
        request = read_request(
            {"contents": [{"role": "model", "parts": [{"text": "", "thoughtSignature": signature}]}]}
        )
        assert request.messages[0].parts == [Thinking(signature=signature)]
