"""OpenAI chat completions and completions as the simulated provider writes them, whole and streamed.

With `stream_options.include_usage` every chunk carries `"usage":null` and one more chunk with `choices: []` and the
usage comes before `[DONE]`; without it no chunk mentions usage. That is what the real API does.
"""

import orjson

from sidecar.sim.ask import Ask
from sidecar.sim.plan import Events
from sidecar.sim.speaker import Answer

_TAIL = '"service_tier":"default","system_fingerprint":"fp_51db84afab"'


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def finish_reason(answer: Answer) -> str:
    """OpenAI's word for how the answer ended."""
    if answer.filtered or answer.blocked:
        return "content_filter"
    return "length" if answer.cut else "tool_calls" if answer.calls else "stop"


def usage_json(answer: Answer) -> str:
    """The usage object of chat completions."""
    total = answer.input_tokens + answer.output_tokens
    return (
        f'{{"prompt_tokens":{answer.input_tokens},"completion_tokens":{answer.output_tokens},"total_tokens":{total},'
        f'"prompt_tokens_details":{{"cached_tokens":{answer.cached_tokens},"audio_tokens":0}},'
        f'"completion_tokens_details":{{"reasoning_tokens":{answer.reasoning_tokens},"audio_tokens":0,'
        '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    )


def _message(answer: Answer) -> str:
    reasoning = f'"reasoning_content":{_quoted("".join(answer.reasoning()))},' if answer.show_reasoning else ""
    if answer.calls:
        calls = ",".join(
            f'{{"id":"call_{answer.call_id(at)}","type":"function",'
            f'"function":{{"name":{_quoted(name)},"arguments":{_quoted(arguments)}}}}}'
            for at, (name, arguments) in enumerate(answer.calls)
        )
        return f'"role":"assistant","content":null,{reasoning}"tool_calls":[{calls}],"refusal":null,"annotations":[]'
    text = _quoted(answer.text())
    content, refusal = ("null", text) if answer.refused else (text, "null")
    return f'"role":"assistant","content":{content},{reasoning}"refusal":{refusal},"annotations":[]'


def chat_body(answer: Answer, created: int) -> bytes:
    """A whole chat completion."""
    return (
        f'{{"id":"chatcmpl-{answer.id}","object":"chat.completion","created":{created},"model":{answer.model_json},'
        f'"choices":[{{"index":0,"message":{{{_message(answer)}}},"logprobs":null,'
        f'"finish_reason":"{finish_reason(answer)}"}}],"usage":{usage_json(answer)},{_TAIL}}}'
    ).encode()


def completions_body(answer: Answer, created: int) -> bytes:
    """A whole text completion."""
    reason = finish_reason(answer)
    return (
        f'{{"id":"cmpl-{answer.id}","object":"text_completion","created":{created},"model":{answer.model_json},'
        f'"choices":[{{"text":{_quoted(answer.text())},"index":0,"logprobs":null,"finish_reason":"{reason}"}}],'
        f'"usage":{usage_json(answer)},{_TAIL}}}'
    ).encode()


def grouped(pieces: list[str], size: int) -> list[str]:
    """Tokens joined into chunks of `size`."""
    return pieces if size <= 1 else ["".join(pieces[at : at + size]) for at in range(0, len(pieces), size)]


def argument_pieces(arguments: str, count: int) -> list[str]:
    """Tool arguments cut into at most `count` pieces, as they are streamed."""
    size = max(1, -(-len(arguments) // max(1, count)))
    return [arguments[at : at + size] for at in range(0, len(arguments), size)]


def _asks_usage(ask: Ask) -> bool:
    return bool(ask.stream_options and ask.stream_options.get("include_usage"))


def _done(head: str, answer: Answer, *, wants_usage: bool) -> str:
    usage = f'{head}"choices":[],"usage":{usage_json(answer)}}}\n\n' if wants_usage else ""
    return f"{usage}data: [DONE]\n\n"


def chat_events(answer: Answer, ask: Ask, created: int, tokens_per_chunk: int, tool_pieces: int) -> Events:
    """A streamed chat completion."""
    head = (
        f'data: {{"id":"chatcmpl-{answer.id}","object":"chat.completion.chunk","created":{created},'
        f'"model":{answer.model_json},{_TAIL},'
    )
    wants_usage = _asks_usage(ask)
    null_usage = ',"usage":null' if wants_usage else ""
    before = head + '"choices":[{"index":0,"delta":{'
    after = f'}},"logprobs":null,"finish_reason":null}}]{null_usage}}}\n\n'
    deltas = [f'"reasoning_content":{_quoted(piece)}' for piece in grouped(answer.reasoning(), tokens_per_chunk)]
    if not answer.calls:
        member = "refusal" if answer.refused else "content"
        role = '"role":"assistant","content":"","refusal":null'
        deltas += [f'"{member}":{_quoted(piece)}' for piece in grouped(answer.pieces(), tokens_per_chunk)]
    else:
        role = '"role":"assistant","content":null'
        deltas += _call_deltas(answer, tool_pieces)
    end = f'{head}"choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{finish_reason(answer)}"}}]'
    tail = f"{end}{null_usage}}}\n\n{_done(head, answer, wants_usage=wants_usage)}"
    tokens = [f"{before}{delta}{after}".encode() for delta in deltas]
    return Events(f"{before}{role}{after}".encode(), tokens, tail.encode())


def _call_deltas(answer: Answer, tool_pieces: int) -> list[str]:
    """The calls one after the other; the first delta of each has its id and name."""
    deltas: list[str] = []
    for index, (name, arguments) in enumerate(answer.calls):
        call = f'"id":"call_{answer.call_id(index)}","type":"function",'
        for at, piece in enumerate(argument_pieces(arguments, tool_pieces)):
            named = f'{call if at == 0 else ""}"function":{{{f""""name":{_quoted(name)},""" if at == 0 else ""}'
            deltas.append(f'"tool_calls":[{{"index":{index},{named}"arguments":{_quoted(piece)}}}}}]')
    return deltas


def completions_events(answer: Answer, ask: Ask, created: int, tokens_per_chunk: int) -> Events:
    """A streamed text completion; it has no event before the first token."""
    head = (
        f'data: {{"id":"cmpl-{answer.id}","object":"text_completion","created":{created},'
        f'"model":{answer.model_json},{_TAIL},'
    )
    wants_usage = _asks_usage(ask)
    null_usage = ',"usage":null' if wants_usage else ""
    tokens = [
        f'{head}"choices":[{{"text":{_quoted(piece)},"index":0,"logprobs":null,"finish_reason":null}}]{null_usage}}}\n\n'.encode()
        for piece in grouped(answer.pieces(), tokens_per_chunk)
    ]
    reason = finish_reason(answer)
    end = f'{head}"choices":[{{"text":"","index":0,"logprobs":null,"finish_reason":"{reason}"}}]{null_usage}}}\n\n'
    return Events(b"", tokens, (end + _done(head, answer, wants_usage=wants_usage)).encode())
