"""Writes docs/dialects.md: what each dialect can say for which client (`python -m tests.dialects`).

Each feature is one canonical example. It is written in the client's own format and read again, as a client sends it; then it
is written for each arm, and the Report says what became of it: "exact", "mapped" (said in other words, and told in
`x-sidecar-changed`) or "refused" (400 by default; dropped and told where the policy allows loss). So the page cannot promise
what the code does not do. Waits are in the docstrings of the stream writers, differences of providers in `wire.providers`.
"""

import ast
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, get_args

from msgspec.structs import replace

from bench import translation
from sidecar.wire.neutral import (
    HINTS,
    Choice,
    Format,
    Media,
    Message,
    Output,
    Reasoning,
    Refusal,
    Report,
    Request,
    Response,
    Stop,
    Text,
    Thinking,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from sidecar.wire.providers import PROVIDERS
from sidecar.wire.spoke import problem_of
from sidecar.wire.spokes import SPOKES
from tests.fixtures import kept

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "dialects.md"
NAMES: Final[dict[Format, str]] = {
    "chat": "OpenAI chat", "responses": "OpenAI Responses", "messages": "Anthropic", "generate": "Gemini",
    "cohere": "Cohere", "converse": "Bedrock",
}  # fmt: skip
CLIENTS: Final[tuple[Format, ...]] = ("chat", "responses", "messages", "generate")
_SCHEMA: Final = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False,
}  # fmt: skip
_TOOL: Final = Tool(name="weather", description="The weather of a city.", parameters=_SCHEMA)
_PNG: Final = "iVBORw0KGgo="

Make = Callable[[Request], Request]


def _with(**members: object) -> Make:
    return lambda request: replace(request, **members)


def _user(*parts: Text | Media) -> Make:
    return lambda request: replace(request, messages=[Message(role="user", parts=[Text(text="Look:"), *parts])])


def _talk(*messages: Message) -> Make:
    return lambda request: replace(request, messages=[*request.messages, *messages], tools=[_TOOL])


_CALLS: Final = [ToolCall(id=f"call_{number}", name="weather", arguments='{"city":"Bonn"}') for number in (1, 2)]
_RESULTS: Final = [ToolResult(call_id=call.id, name="weather", parts=[Text(text="dry")]) for call in _CALLS]


def _system(role: str, *, late: bool = False) -> Make:
    def make(request: Request) -> Request:
        said = Message(role=role, parts=[Text(text="Be brief.")])  # type: ignore[arg-type]  # one of the two
        again = Message(role="user", parts=[Text(text="And now?")])
        return replace(request, messages=[*request.messages, said, again] if late else [said, *request.messages])

    return make


def _thought(request: Request) -> Request:
    parts = [Thinking(text="Hm.", signature="c2lnbmF0dXJl"), Text(text="Yes.")]
    talk = [
        *request.messages,
        Message(role="assistant", parts=list(parts)),
        Message(role="user", parts=[Text(text="Why?")]),
    ]
    return replace(request, messages=talk)


REQUESTS: Final[dict[str, Make]] = {
    "system message": _system("system"),
    "developer message": _system("developer"),
    "system message amid the talk": _system("system", late=True),
    "tools": _with(tools=[_TOOL]),
    "strict tools": _with(tools=[replace(_TOOL, strict=True)]),
    "custom tools (free text)": _with(tools=[Tool(name="run", custom=True)]),
    "tool choice: none": _with(tools=[_TOOL], tool_choice=ToolChoice(mode="none")),
    "tool choice: any": _with(tools=[_TOOL], tool_choice=ToolChoice(mode="required")),
    "tool choice: one": _with(tools=[_TOOL], tool_choice=ToolChoice(mode="required", tools=["weather"])),
    "one tool at a time": _with(tools=[_TOOL], parallel_tools=False),
    "a call and its result": _talk(
        Message(role="assistant", parts=[_CALLS[0]]), Message(role="tool", parts=[_RESULTS[0]])
    ),
    "parallel calls": _talk(Message(role="assistant", parts=list(_CALLS)), Message(role="tool", parts=list(_RESULTS))),
    "a result that failed": _talk(
        Message(role="assistant", parts=[_CALLS[0]]), Message(role="tool", parts=[replace(_RESULTS[0], failed=True)])
    ),
    "image, base64": _user(Media(kind="image", media_type="image/png", data=_PNG)),
    "image, url": _user(Media(kind="image", url="https://example.com/a.png")),
    "image, detail": _user(Media(kind="image", media_type="image/png", data=_PNG, detail="high")),
    "PDF, base64": _user(Media(kind="document", media_type="application/pdf", data=_PNG, name="a.pdf")),
    "PDF, url": _user(Media(kind="document", media_type="application/pdf", url="https://example.com/a.pdf")),
    "sound": _user(Media(kind="audio", media_type="audio/wav", data=_PNG)),
    "film": _user(Media(kind="video", media_type="video/mp4", data=_PNG)),
    "a file of the provider's": _user(Media(kind="document", media_type="application/pdf", file_id="file-1")),
    "max tokens": _with(max_tokens=100),
    "temperature 0.3": _with(temperature=0.3),
    "temperature 1.7": _with(temperature=1.7),
    "top_p": _with(top_p=0.5),
    "top_k": _with(top_k=20),
    "stop sequences": _with(stop=["END"]),
    "seed": _with(seed=7),
    "n = 2": _with(n=2),
    "penalties": _with(frequency_penalty=0.5, presence_penalty=0.5),
    "log probabilities": _with(logprobs=2),
    "logit bias": _with(logit_bias={"50256": -100}),
    "JSON schema output": _with(output=Output(schema=_SCHEMA, name="place", strict=True)),
    "any JSON output": _with(output=Output()),
    "reasoning effort": _with(reasoning=Reasoning(effort="low")),
    "thinking budget": _with(reasoning=Reasoning(budget_tokens=2048), max_tokens=8000),
    "thoughts of earlier turns, signed": _thought,
    "cache marks": _user(Text(text="A long text.", cache="5m")),
    "cache key": _with(cache_key="k"),
    "end user": _with(user="u1"),
    "metadata": _with(metadata={"team": "a"}),
    "service tier": _with(service_tier="priority"),
    "verbosity": _with(verbosity="low"),
    "store": _with(store=True),
    "a member nobody knows": _with(extra={"new_member": 1}),
}
_TOKEN: Final = TokenLogprob(token="Yes", logprob=-0.1, bytes=[89, 101, 115], top=[])


def _answer(*parts: object, stop: Stop = "stop", **members: object) -> Callable[[Format], Response]:
    def make(arm: Format) -> Response:
        choice = Choice(index=0, parts=list(parts), stop=stop, **members)  # type: ignore[arg-type]
        return Response(format=arm, id="a1", model="m", choices=[choice], created=1763000000)

    return make


def _two(arm: Format) -> Response:
    choices = [Choice(index=number, parts=[Text(text="Yes.")], stop="stop") for number in (0, 1)]
    return Response(format=arm, id="a1", model="m", choices=choices, created=1763000000)


ANSWERS: Final[dict[str, Callable[[Format], Response]]] = {
    "text": _answer(Text(text="Yes.")),
    "one call": _answer(_CALLS[0], stop="tool_calls"),
    "text and parallel calls": _answer(Text(text="Well:"), *_CALLS, stop="tool_calls"),
    "thoughts": _answer(Thinking(text="Hm."), Text(text="Yes.")),
    "thoughts, signed": _answer(Thinking(text="Hm.", signature="c2lnbmF0dXJl"), Text(text="Yes.")),
    "refusal": _answer(Refusal(text="No."), stop="refusal"),
    "image": _answer(Media(kind="image", media_type="image/png", data=_PNG)),
    "log probabilities": _answer(Text(text="Yes"), logprobs=[_TOKEN]),
    "two choices": _two,
    **{f"stop: {stop}": _answer(Text(text="Yes."), stop=stop) for stop in get_args(Stop)},
    "the stop text that came": _answer(Text(text="Yes."), stop="stop_sequence", stop_sequence="END"),
}

HEAD: Final = """# Dialects

A service that speaks one dialect may be served by an arm that speaks another. This page says what that keeps. **exact**: the
arm is told the same. **mapped**: in other words, the nearest that the dialect has; the client reads it in
`x-sidecar-changed`. **refused**: the dialect cannot say it; the call gets a 400 that names the member, or, where the route
has `allow_loss: true`, is served without it and told so. "-": the client's own dialect has no word for it. Between equal
dialects nothing is translated: bytes go through as they are.

**Hints** are never refused: no answer depends on who asks, on labels, on a wish of price and pace, on what to cache or to
expect. An arm whose dialect has no word for one is asked without it, and it counts as mapped: {hints}.
`store: false` and a tier that is the usual one ask for nothing, and are not told. Nor is a call of Anthropic's refused for
`context_management` that speaks of thoughts alone, as Claude Code's does; one that takes results of tools out of a long
conversation, or sums it up, changes what the model sees.

**One tool at a time** (`parallel_tool_calls: false`) is kept where the dialect has no word for it: of an answer with several
calls the client gets the first. The client gives back its result, and the model, asked again, goes on from there; the calls
that were left out are billed by the provider all the same. That the promise is kept in this way is told as mapped.

**Names of tools** that the arm's dialect refuses (dots, spaces, other letters, too many characters) are said there under
names that it takes, and come back under the client's own, in streams too; each is told as mapped (`tools[0].name`). A prompt
that speaks of a tool by its name is not touched.

**A JSON schema** of an Anthropic or Gemini client, whose answers always keep to it, is sent to OpenAI as `strict` where
strict mode takes it: every object lists all its properties as required and allows no others, and no keyword is used that
strict mode does not know. Any other goes without, as a wish that models mostly obey, and is told as mapped
(`output.strict`).

**A call that the model wrote wrongly** (Gemini's `MALFORMED_FUNCTION_CALL` and its like) is an error for clients of other
dialects, 502 or the error at a stream's end, with Gemini's word in its message: they have no such end, any other would be
taken for a good answer with nothing in it, and SDKs try again after a 502, which mostly helps.

This page is written by `python -m tests.dialects`: each cell is one example that was translated. Do not edit it.

Ten whole conversations for each pair, with what the arm is asked and the client is told, to the byte, are in
`tests/golden`: the official SDKs make the same typed objects of them as of their own provider's answers, but for what
`tests/golden/declared.py` lists with a reason.
"""
COST: Final = """## What it costs

Process time of a stream of 1,000 chunks through the real reply and its meter, as it is and translated, and of reading and
writing a request of 200 kB (`python -m bench.translation --out docs/translation.json`; medians, on two cores that others
used too). The goals are 3 x and 3 ms. A request costs by its messages more than by its bytes: the last column is the same
size in 600 small ones, which misses the second goal.
"""
SOURCES: Final = """## Sources

The formats are those of the providers' API references and of the types in their official SDKs, as of 2026-11:
[OpenAI chat completions](https://platform.openai.com/docs/api-reference/chat),
[OpenAI Responses](https://platform.openai.com/docs/api-reference/responses),
[Anthropic messages](https://docs.anthropic.com/en/api/messages),
[Gemini generateContent](https://ai.google.dev/api/generate-content),
[Cohere v2 chat](https://docs.cohere.com/reference/chat),
[Bedrock Converse](https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html).
"""


def base(form: Format) -> Request:
    return Request(format=form, model="m", messages=[Message(role="user", parts=[Text(text="Hi")])], max_tokens=50)


def verdict(request: Request, plain: Request, arm: Format) -> str:
    """What an arm is told of what `request` says more than `plain`."""
    said, known = Report(), Report()
    SPOKES[arm].write_request(request, said)
    SPOKES[arm].write_request(plain, known)
    lost = set(said.lost) - set(known.lost)
    mapped = set(said.mapped) - set(known.mapped)
    return "refused" if lost else "mapped" if mapped else "exact"


def asked(make: Make, client: Format) -> Request | None:
    """The example as the client's own body has it; None: the client has no word for it."""
    request, report = make(base(client)), Report()
    body = SPOKES[client].write_request(request, report)
    plain = SPOKES[client].write_request(base(client), Report())
    read = SPOKES[client].read_request
    assert read is not None, "clients speak formats that can be read"
    said = read(body)
    said.model, said.stream = request.model, request.stream
    unsaid = body == plain or report.lost or report.mapped or kept.missing_of_request(request, said, report)
    return None if unsaid else said


def request_rows(client: Format) -> Iterable[tuple[str, list[str]]]:
    for feature, make in REQUESTS.items():
        request = asked(make, client)
        arms = [arm for arm in NAMES if arm != client]
        yield feature, ["-" if request is None else verdict(request, base(client), arm) for arm in arms]


def answer_rows() -> Iterable[tuple[str, list[str]]]:
    """What each client is told; an answer cannot be refused: what has no place is left out and told."""
    for feature, make in ANSWERS.items():
        cells = []
        for client in CLIENTS:
            report, write = Report(), SPOKES[client].write_response
            assert write is not None, "clients speak formats that can be written"
            answer = make("chat" if client == "messages" else "messages")
            write(answer, base(client), report)
            failed = answer.choices[0].stop == "error"  # the hub makes an error of it
            cells.append(
                "an error" if failed else "left out" if report.lost else "mapped" if report.mapped else "exact"
            )
        yield feature, cells


def _table(head: list[str], rows: Iterable[tuple[str, list[str]]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join([feature, *cells]) + " |" for feature, cells in rows)]


def waits() -> Iterable[tuple[str, str]]:
    """(module, what waits) of every module of a stream that has such a section."""
    for file in sorted((ROOT / "sidecar" / "wire" / "spokes").glob("*/*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        _, found, after = text.partition("**Waits.**")
        if found:
            yield f"{file.parent.name}/{file.stem}", after.partition("\n\n")[0].strip()


def errors() -> Iterable[tuple[str, list[str]]]:
    for status in (400, 401, 402, 403, 404, 408, 413, 429, 500, 503, 529):
        cells = []
        for client in CLIENTS:
            write = SPOKES[client].write_problem
            assert write is not None, "clients speak formats that can be written"
            said = write(problem_of(status, "x"))
            error = said["error"]
            cells.append(f"`{error.get('status') or error['type']}`")
        yield str(status), cells


def costs() -> str:
    """What was measured, as it stands on the page: measuring takes minutes, so it is not written again each time."""
    figures = ROOT / "docs" / "translation.json"
    return translation.table(json.loads(figures.read_text(encoding="utf-8"))) if figures.exists() else ""


def page() -> str:
    """The text of docs/dialects.md."""
    lines = [HEAD.format(hints=", ".join(f"`{name}`" for name in sorted(HINTS)))]
    for client in CLIENTS:
        arms = [NAMES[arm] for arm in NAMES if arm != client]
        lines += [f"## A client of {NAMES[client]}", "", "What it asks, for an arm of:", ""]
        lines += [*_table(["feature", *arms], request_rows(client)), ""]
    lines += [
        "## Answers",
        "",
        'What a client is told by an arm of another dialect ("left out": there is no place for it; "an error": an answer',
        "whose provider says that it failed is told as one, with the provider's status or 502, in a stream as its end):",
        "",
    ]
    lines += [*_table(["answer", *(NAMES[client] for client in CLIENTS)], answer_rows()), ""]
    lines += ["## Errors", "", "The provider's status stays; the object is the client's own, with this type:", ""]
    lines += [*_table(["status", *(NAMES[client] for client in CLIENTS)], errors()), ""]
    lines += ["## What waits in a stream", "", "Each event goes on at once, except where the formats force it:", ""]
    lines += [f"- `{name}`: " + " ".join(text.split()) for name, text in waits()]
    lines += [
        "",
        "## What servers lack",
        "",
        "Members that a server of the dialect refuses, and so are refused for it (hints are left out and told):",
        "",
    ]
    lines += [f"- {name}: {', '.join(sorted(one.lacks))}" for name, one in PROVIDERS.items() if one.lacks]
    return "\n".join([*lines, "", COST, costs(), "", SOURCES])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
