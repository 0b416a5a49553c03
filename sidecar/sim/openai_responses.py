"""OpenAI Responses as the simulated provider writes them, whole and streamed.

Each event has its name, its `type` and a running `sequence_number`; usage stands in response.completed (or incomplete).
"""

import orjson

from sidecar.sim.openai_chat import argument_pieces, grouped
from sidecar.sim.plan import Events
from sidecar.sim.speaker import Answer


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _usage(answer: Answer) -> str:
    return (
        f'{{"input_tokens":{answer.input_tokens},"input_tokens_details":{{"cached_tokens":{answer.cached_tokens}}},'
        f'"output_tokens":{answer.output_tokens},"output_tokens_details":{{"reasoning_tokens":{answer.reasoning_tokens}}},'
        f'"total_tokens":{answer.input_tokens + answer.output_tokens}}}'
    )


def _response(answer: Answer, created: int, status: str, output: str) -> str:
    ended = status in ("completed", "incomplete")
    details = '{"reason":"max_output_tokens"}' if status == "incomplete" else "null"
    return (
        f'{{"id":"resp_{answer.id}","object":"response","created_at":{created},"status":"{status}","error":null,'
        f'"incomplete_details":{details},"instructions":null,"metadata":{{}},"model":{answer.model_json},'
        f'"output":[{output}],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"auto","tools":[],"top_p":1.0,'
        f'"usage":{_usage(answer) if ended else "null"}}}'
    )


def _part(answer: Answer, text: str) -> str:
    if answer.refused:
        return f'{{"type":"refusal","refusal":{_quoted(text)}}}'
    return f'{{"type":"output_text","annotations":[],"logprobs":[],"text":{_quoted(text)}}}'


def _item(answer: Answer, status: str, content: str) -> str:
    return f'{{"id":"msg_{answer.id}","type":"message","status":"{status}","role":"assistant","content":[{content}]}}'


def _call(answer: Answer, status: str, name: str, arguments: str) -> str:
    return (
        f'{{"id":"fc_{answer.id}","type":"function_call","status":"{status}","arguments":{_quoted(arguments)},'
        f'"call_id":"call_{answer.id[-24:]}","name":{_quoted(name)}}}'
    )


def _reasoning(answer: Answer, text: str) -> str:
    return f'{{"id":"rs_{answer.id}","type":"reasoning","summary":[{{"type":"summary_text","text":{_quoted(text)}}}]}}'


def _output(answer: Answer) -> str:
    thought = answer.reasoning()
    items = [_reasoning(answer, "".join(thought))] if thought else []
    if answer.tool is not None:
        items.append(_call(answer, "completed", *answer.tool))
    else:
        items.append(_item(answer, "incomplete" if answer.cut else "completed", _part(answer, answer.text())))
    return ",".join(items)


def responses_body(answer: Answer, created: int) -> bytes:
    """A whole response object."""
    return _response(answer, created, "incomplete" if answer.cut else "completed", _output(answer)).encode()


class _Numbered:
    """Writes events with their sequence numbers."""

    def __init__(self) -> None:
        self._next = 0

    def event(self, kind: str, members: str) -> str:
        number = self._next
        self._next += 1
        return f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":{number},{members}}}\n\n'

    def deltas(self, kind: str, where: str, pieces: list[str]) -> list[str]:
        return [self.event(kind, f'{where},"delta":{_quoted(piece)}') for piece in pieces]


def responses_events(answer: Answer, created: int, tokens_per_chunk: int, tool_pieces: int) -> Events:
    """A streamed response."""
    writer = _Numbered()
    begun = _response(answer, created, "in_progress", "")
    lead = writer.event("response.created", f'"response":{begun}')
    lead += writer.event("response.in_progress", f'"response":{begun}')
    tokens: list[str] = []
    index = 0
    between = ""
    thought = answer.reasoning()
    if thought:
        where = f'"item_id":"rs_{answer.id}","output_index":0,"summary_index":0'
        item = f'{{"id":"rs_{answer.id}","type":"reasoning","summary":[]}}'
        lead += writer.event("response.output_item.added", f'"output_index":0,"item":{item}')
        tokens += writer.deltas("response.reasoning_summary_text.delta", where, grouped(thought, tokens_per_chunk))
        whole = _reasoning(answer, "".join(thought))
        between = writer.event("response.output_item.done", f'"output_index":0,"item":{whole}')
        index = 1
    opened, spoken, closed = _spoken(answer, writer, index, (tokens_per_chunk, tool_pieces))
    if tokens and spoken:
        spoken[0] = between + opened + spoken[0]
    else:
        lead += between + opened
    kind = "incomplete" if answer.cut else "completed"
    done = _response(answer, created, kind, _output(answer))
    tail = closed + writer.event(f"response.{kind}", f'"response":{done}')
    return Events(lead.encode(), [token.encode() for token in tokens + spoken], tail.encode())


def _spoken(answer: Answer, writer: _Numbered, index: int, sizes: tuple[int, int]) -> tuple[str, list[str], str]:
    """What opens the answer's item, its deltas, and what closes it."""
    place = f'"output_index":{index}'
    if answer.tool is not None:
        name, arguments = answer.tool
        where = f'"item_id":"fc_{answer.id}",{place}'
        item = _call(answer, "in_progress", name, "")
        opened = writer.event("response.output_item.added", f'{place},"item":{item}')
        pieces = argument_pieces(arguments, sizes[1])
        deltas = writer.deltas("response.function_call_arguments.delta", where, pieces)
        closed = writer.event(
            "response.function_call_arguments.done", f'{where},"arguments":{_quoted(arguments)},"name":{_quoted(name)}'
        )
        item = _call(answer, "completed", name, arguments)
        return opened, deltas, closed + writer.event("response.output_item.done", f'{place},"item":{item}')
    where = f'"item_id":"msg_{answer.id}",{place},"content_index":0'
    kind, member = ("refusal", "refusal") if answer.refused else ("output_text", "text")
    opened = writer.event("response.output_item.added", f'{place},"item":{_item(answer, "in_progress", "")}')
    opened += writer.event("response.content_part.added", f'{where},"part":{_part(answer, "")}')
    logprobs = "" if answer.refused else ',"logprobs":[]'
    deltas = writer.deltas(f"response.{kind}.delta", where + logprobs, grouped(answer.pieces(), sizes[0]))
    text = answer.text()
    part = _part(answer, text)
    closed = writer.event(f"response.{kind}.done", f'{where},"{member}":{_quoted(text)}{logprobs}')
    closed += writer.event("response.content_part.done", f'{where},"part":{part}')
    status = "incomplete" if answer.cut else "completed"
    return (
        opened,
        deltas,
        closed + writer.event("response.output_item.done", f'{place},"item":{_item(answer, status, part)}'),
    )
