"""Azure OpenAI's chat completions as the simulated provider writes them: OpenAI's, with what Azure's filter found.

A stream begins with a chunk that has `choices: []`, an empty id and model, and the filter's results for the prompt; each
choice says what the filter found in it. Azure says no service tier.
"""

from sidecar.sim.ask import Ask
from sidecar.sim.openai_chat import chat_body, chat_events
from sidecar.sim.plan import Events, Manner
from sidecar.sim.speaker import Answer

_SAFE = b'{"filtered":false,"severity":"safe"}'
_FOUND = b'{"hate":%b,"self_harm":%b,"sexual":%b,"violence":%b}'
_CLEAN = _FOUND % (_SAFE, _SAFE, _SAFE, _SAFE)
_STRUCK = _FOUND % (_SAFE, _SAFE, _SAFE, b'{"filtered":true,"severity":"high"}')
_PROMPT = b'"prompt_filter_results":[{"prompt_index":0,"content_filter_results":%b}]' % _CLEAN
_FIRST = b'data: {"choices":[],"created":0,"id":"","model":"","object":"",%b}\n\n' % _PROMPT
_TIER = b'"service_tier":"default",'


def azure_body(answer: Answer, manner: Manner) -> bytes:
    """A whole chat completion."""
    found = _STRUCK if answer.filtered else _CLEAN
    whole = chat_body(answer, manner.created).replace(_TIER, b"", 1)
    return whole.replace(b'"choices":[{', _PROMPT + b',"choices":[{"content_filter_results":%b,' % found, 1)


def azure_events(answer: Answer, ask: Ask, manner: Manner) -> Events:
    """A streamed chat completion."""
    plain = chat_events(answer, ask, manner.created, manner.tokens_per_chunk, manner.tool_pieces)
    lead = _FIRST + _found(plain.lead, b"{}")
    tokens = [_found(token, _CLEAN) for token in plain.tokens]
    return Events(lead, tokens, _found(plain.tail, _STRUCK if answer.filtered else b"{}"))


def _found(event: bytes, results: bytes) -> bytes:
    """The filter's results inside the choice. A text cannot hold these bytes: its quotes are escaped."""
    marked = event.replace(b'"choices":[{', b'"choices":[{"content_filter_results":%b,' % results)
    return marked.replace(_TIER, b"")
