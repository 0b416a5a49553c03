"""Mistral's chat completions as the simulated provider writes them, whole and streamed.

Unlike OpenAI's: usage comes unasked, in a stream on the last chunk, which has choices; ids of calls are nine letters or
digits; a call is streamed whole; reasoning stands in the content as `thinking` chunks; there are no refusals, only text.
"""

import orjson

from sidecar.sim.openai_chat import grouped
from sidecar.sim.plan import Events, Manner
from sidecar.sim.speaker import Answer

FAMILIES = (
    "mistral-",
    "ministral-",
    "codestral-",
    "magistral-",
    "devstral-",
    "pixtral-",
    "voxtral-",
    "open-mistral-",
    "open-mixtral-",
)  # model names that are Mistral's


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def finish_reason(answer: Answer) -> str:
    """Mistral's word for how the answer ended."""
    if answer.filtered or answer.blocked:
        return "error"
    return "length" if answer.cut else "tool_calls" if answer.calls else "stop"


def usage_json(answer: Answer) -> str:
    """The usage object; a cached part is told only where there is one."""
    total = answer.input_tokens + answer.output_tokens
    cached = f',"prompt_tokens_details":{{"cached_tokens":{answer.cached_tokens}}}' if answer.cached_tokens else ""
    return (
        f'{{"prompt_tokens":{answer.input_tokens},"total_tokens":{total},"completion_tokens":{answer.output_tokens}'
        f"{cached}}}"
    )


def _calls(answer: Answer) -> str:
    return ",".join(
        f'{{"id":"{answer.call_id(at, 9)}","function":{{"name":{_quoted(name)},'
        f'"arguments":{_quoted(arguments)}}},"index":{at}}}'
        for at, (name, arguments) in enumerate(answer.calls)
    )


def _thinking(text: str) -> str:
    return f'{{"type":"thinking","thinking":[{{"type":"text","text":{_quoted(text)}}}]}}'


def mistral_body(answer: Answer, manner: Manner) -> bytes:
    """A whole chat completion."""
    thought = answer.reasoning()
    text = "" if answer.calls else answer.text()
    content = _quoted(text)
    if thought:
        content = f'[{_thinking("".join(thought))},{{"type":"text","text":{content}}}]'
    calls = f"[{_calls(answer)}]" if answer.calls else "null"
    message = f'{{"role":"assistant","tool_calls":{calls},"content":{content}}}'
    return (
        f'{{"id":"{answer.id}","created":{manner.created},"model":{answer.model_json},"usage":{usage_json(answer)},'
        f'"object":"chat.completion","choices":[{{"index":0,"finish_reason":"{finish_reason(answer)}",'
        f'"message":{message}}}]}}'
    ).encode()


def mistral_events(answer: Answer, manner: Manner) -> Events:
    """A streamed chat completion; calls are in the last chunk with the reason and the usage."""
    head = (
        f'data: {{"id":"{answer.id}","object":"chat.completion.chunk","created":{manner.created},'
        f'"model":{answer.model_json},"choices":[{{"index":0,"delta":{{'
    )
    after = '},"finish_reason":null}]}\n\n'
    size = manner.tokens_per_chunk
    deltas = [f'"content":[{_thinking(piece)}]' for piece in grouped(answer.reasoning(), size)]
    end = f'}},"finish_reason":"{finish_reason(answer)}"}}],"usage":{usage_json(answer)}}}\n\n'
    last = '"content":""'
    if answer.calls:
        last = f'"content":"","tool_calls":[{_calls(answer)}]'
    else:
        deltas += [f'"content":{_quoted(piece)}' for piece in grouped(answer.pieces(), size)]
    tokens = [f"{head}{delta}{after}".encode() for delta in deltas]
    closing = f"{head}{last}{end}".encode()
    done = b"data: [DONE]\n\n"
    if answer.calls:
        return Events(f'{head}"role":"assistant","content":""{after}'.encode(), [*tokens, closing], done)
    return Events(f'{head}"role":"assistant","content":""{after}'.encode(), tokens, closing + done)
