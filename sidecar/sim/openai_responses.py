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
    reason = "max_output_tokens" if answer.cut else "content_filter"
    details = f'{{"reason":"{reason}"}}' if status == "incomplete" else "null"
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


def _call(answer: Answer, status: str, at: int, arguments: str) -> str:
    return (
        f'{{"id":"fc_{answer.call_id(at)}","type":"function_call","status":"{status}",'
        f'"arguments":{_quoted(arguments)},"call_id":"call_{answer.call_id(at)}","name":{_quoted(answer.calls[at][0])}}}'
    )


def _status(answer: Answer) -> str:
    return "incomplete" if answer.cut or answer.filtered or answer.blocked else "completed"


def _reasoning(answer: Answer, text: str) -> str:
    return f'{{"id":"rs_{answer.id}","type":"reasoning","summary":[{{"type":"summary_text","text":{_quoted(text)}}}]}}'


def _output(answer: Answer) -> str:
    thought = answer.reasoning()
    items = [_reasoning(answer, "".join(thought))] if thought else []
    items += [_call(answer, "completed", at, arguments) for at, (_, arguments) in enumerate(answer.calls)]
    if not answer.calls:
        items.append(_item(answer, _status(answer), _part(answer, answer.text())))
    return ",".join(items)


def responses_body(answer: Answer, created: int) -> bytes:
    """A whole response object."""
    return _response(answer, created, _status(answer), _output(answer)).encode()


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
    if answer.calls:
        opened, spoken, closed = _called(answer, writer, index, tool_pieces)
    else:
        opened, spoken, closed = _spoken(answer, writer, index, tokens_per_chunk)
    if tokens and spoken:
        spoken[0] = between + opened + spoken[0]
    else:
        lead += between + opened
    kind = _status(answer)
    done = _response(answer, created, kind, _output(answer))
    tail = closed + writer.event(f"response.{kind}", f'"response":{done}')
    return Events(lead.encode(), [token.encode() for token in tokens + spoken], tail.encode())


def _called(answer: Answer, writer: _Numbered, index: int, pieces: int) -> tuple[str, list[str], str]:
    """What opens the first call's item, all deltas (a call's first one follows the end of the call before it), the end."""
    opened, closed = "", ""
    deltas: list[str] = []
    for at, (name, arguments) in enumerate(answer.calls):
        place = f'"output_index":{index + at}'
        where = f'"item_id":"fc_{answer.call_id(at)}",{place}'
        item = _call(answer, "in_progress", at, "")
        before = closed + writer.event("response.output_item.added", f'{place},"item":{item}')
        said = writer.deltas("response.function_call_arguments.delta", where, argument_pieces(arguments, pieces))
        if at == 0:
            opened = before
        else:
            said[0] = before + said[0]
        deltas += said
        closed = writer.event(
            "response.function_call_arguments.done", f'{where},"arguments":{_quoted(arguments)},"name":{_quoted(name)}'
        )
        item = _call(answer, "completed", at, arguments)
        closed += writer.event("response.output_item.done", f'{place},"item":{item}')
    return opened, deltas, closed


def _spoken(answer: Answer, writer: _Numbered, index: int, size: int) -> tuple[str, list[str], str]:
    """What opens the message's item, its deltas, and what closes it."""
    place = f'"output_index":{index}'
    where = f'"item_id":"msg_{answer.id}",{place},"content_index":0'
    kind, member = ("refusal", "refusal") if answer.refused else ("output_text", "text")
    opened = writer.event("response.output_item.added", f'{place},"item":{_item(answer, "in_progress", "")}')
    opened += writer.event("response.content_part.added", f'{where},"part":{_part(answer, "")}')
    logprobs = "" if answer.refused else ',"logprobs":[]'
    deltas = writer.deltas(f"response.{kind}.delta", where + logprobs, grouped(answer.pieces(), size))
    text = answer.text()
    part = _part(answer, text)
    closed = writer.event(f"response.{kind}.done", f'{where},"{member}":{_quoted(text)}{logprobs}')
    closed += writer.event("response.content_part.done", f'{where},"part":{part}')
    status = _status(answer)
    return (
        opened,
        deltas,
        closed + writer.event("response.output_item.done", f'{place},"item":{_item(answer, status, part)}'),
    )
