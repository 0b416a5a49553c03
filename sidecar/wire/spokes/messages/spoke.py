"""The Messages API of Anthropic, and of the servers that speak it: the spoke's parts, joined.

What it promises: a body of this format that was read and is written again is the same JSON, with nothing reported, up to
this canonical form:
- null is absent; so are `stream: false`, `is_error: false`, `citations: []`, a tool's `type: "custom"`, empty `metadata`,
  `output_config`, `tools` and `stop_sequences`, and the input of a call that takes nothing may be absent or `{}`;
- a content, a system prompt or a tool's result that is one plain text is that text; `ttl: "5m"` is the default;
- `role: "system"` before the first turn belongs to `system`;
- a tool without `input_schema` takes an object without members; a result without content has none;
- of thoughts without a signature only answers speak, and there it is empty;
- an answer's `type` and `role` are what they always are.

Unknown members and blocks survive. Read next: `request`, `answer`, `stream`, `writer`.
"""

from typing import Final

from sidecar.wire.spoke import Spoke
from sidecar.wire.spokes.messages.answer import read_response, write_response
from sidecar.wire.spokes.messages.problem import read_problem, write_problem
from sidecar.wire.spokes.messages.request import read_request, write_request
from sidecar.wire.spokes.messages.stream import Reader
from sidecar.wire.spokes.messages.writer import Writer

SPOKE: Final = Spoke(
    format="messages",
    framing="sse",
    write_request=write_request,
    read_response=read_response,
    stream_reader=Reader,
    read_problem=read_problem,
    read_request=read_request,
    write_response=write_response,
    stream_writer=Writer,
    write_problem=write_problem,
)
