"""Anthropic messages as the simulated provider writes them, whole and streamed (message_start ... message_stop).

Usage follows the real API: `input_tokens` excludes cached reads, message_start carries it with one output token, and
message_delta carries the cumulative output.
"""

import orjson

from sidecar.sim.openai_chat import argument_pieces, grouped
from sidecar.sim.plan import Events
from sidecar.sim.speaker import Answer

_PING = 'event: ping\ndata: {"type": "ping"}\n\n'


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def stop_reason(answer: Answer) -> str:
    """Anthropic's word for how the answer ended."""
    if answer.cut:
        return "max_tokens"
    if answer.refused or answer.filtered or answer.blocked:  # its filter says the same word as its model
        return "refusal"
    return "tool_use" if answer.calls else "end_turn"


def usage_json(answer: Answer, output_tokens: int) -> str:
    """The usage object of a message."""
    return (
        f'{{"input_tokens":{answer.input_tokens - answer.cached_tokens},"cache_creation_input_tokens":0,'
        f'"cache_read_input_tokens":{answer.cached_tokens},'
        '"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},'
        f'"output_tokens":{output_tokens},"service_tier":"standard"}}'
    )


def _message(answer: Answer, content: str, stop: str, output_tokens: int) -> str:
    return (
        f'{{"model":{answer.model_json},"id":"msg_01{answer.id[-22:]}","type":"message","role":"assistant",'
        f'"content":[{content}],"stop_reason":{stop},"stop_sequence":null,"usage":{usage_json(answer, output_tokens)}}}'
    )


def _tool_block(answer: Answer, at: int, arguments: str) -> str:
    name = _quoted(answer.calls[at][0])
    return f'{{"type":"tool_use","id":"toolu_{answer.call_id(at)}","name":{name},"input":{arguments}}}'


def messages_body(answer: Answer) -> bytes:
    """A whole message."""
    blocks = []
    if answer.show_reasoning and answer.reasoning_tokens:
        thought = _quoted("".join(answer.reasoning()))
        blocks.append(f'{{"type":"thinking","thinking":{thought},"signature":"c2ln{answer.id}"}}')
    blocks += [_tool_block(answer, at, arguments) for at, (_, arguments) in enumerate(answer.calls)]
    if not answer.calls and not answer.blocked:
        blocks.append(f'{{"type":"text","text":{_quoted(answer.text())}}}')
    return _message(answer, ",".join(blocks), f'"{stop_reason(answer)}"', answer.output_tokens).encode()


def _event(kind: str, members: str) -> str:
    return f'event: {kind}\ndata: {{"type":"{kind}",{members}}}\n\n'


class _Blocks:
    """Content blocks in order: opening one closes the one before; what opens or closes travels with the next token."""

    def __init__(self) -> None:
        self.index = -1
        self.waiting = ""

    def open(self, block: str) -> None:
        self.close()
        self.index += 1
        self.waiting += _event("content_block_start", f'"index":{self.index},"content_block":{block}')

    def close(self) -> None:
        if self.index >= 0:
            self.waiting += _event("content_block_stop", f'"index":{self.index}')

    def take(self) -> str:
        taken, self.waiting = self.waiting, ""
        return taken

    def deltas(self, kind: str, member: str, pieces: list[str]) -> list[str]:
        """One delta event per piece, the first with what was waiting before it."""
        return [
            self.take()
            + _event(
                "content_block_delta",
                f'"index":{self.index},"delta":{{"type":"{kind}","{member}":{_quoted(piece)}}}',
            )
            for piece in pieces
        ]


def messages_events(answer: Answer, tokens_per_chunk: int, tool_pieces: int) -> Events:
    """A streamed message, with one ping after the first block's start as the real API sends it."""
    blocks = _Blocks()
    tokens: list[str] = []
    start = _event("message_start", f'"message":{_message(answer, "", "null", min(1, answer.output_tokens))}')
    thought = grouped(answer.reasoning(), tokens_per_chunk)
    if thought:
        blocks.open('{"type":"thinking","thinking":"","signature":""}')
        lead = start + blocks.take() + _PING
        tokens += blocks.deltas("thinking_delta", "thinking", thought)
        signature = f'"index":{blocks.index},"delta":{{"type":"signature_delta","signature":"c2ln{answer.id}"}}'
        blocks.waiting += _event("content_block_delta", signature)
    else:
        lead = start
    if not answer.calls and not answer.blocked:
        blocks.open('{"type":"text","text":""}')
        if not thought:
            lead += blocks.take() + _PING
        tokens += blocks.deltas("text_delta", "text", grouped(answer.pieces(), tokens_per_chunk))
    for at, (_, arguments) in enumerate(answer.calls):
        blocks.open(_tool_block(answer, at, "{}"))
        if at == 0 and not thought:
            lead += blocks.take() + _PING
        tokens += blocks.deltas("input_json_delta", "partial_json", argument_pieces(arguments, tool_pieces))
    blocks.close()
    delta = (
        f'"delta":{{"stop_reason":"{stop_reason(answer)}","stop_sequence":null}},'
        f'"usage":{usage_json(answer, answer.output_tokens)}'
    )
    tail = blocks.take() + _event("message_delta", delta) + 'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    return Events(lead.encode(), [token.encode() for token in tokens], tail.encode())
