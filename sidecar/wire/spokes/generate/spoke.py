"""The spoke of Gemini's `generateContent` and `streamGenerateContent?alt=sse`; Vertex serves the same bodies.

Its parts: `request` (and `config`, `tools`, `schema`), `parts` (and `media`, `calls`), `answer`, `stream_reader` (and
`partial`), `stream_writer`; all of them read members through `members`. What it does not know: the path, which holds the
model and whether to stream.
"""

from typing import Final

from sidecar.wire.spoke import Spoke
from sidecar.wire.spokes.generate.answer import read_problem, read_response, write_problem, write_response
from sidecar.wire.spokes.generate.request import read_request, write_request
from sidecar.wire.spokes.generate.stream_reader import GenerateReader
from sidecar.wire.spokes.generate.stream_writer import GenerateWriter

SPOKE: Final = Spoke(
    format="generate",
    framing="sse",
    write_request=write_request,
    read_response=read_response,
    stream_reader=GenerateReader,
    read_problem=read_problem,
    read_request=read_request,
    write_response=write_response,
    stream_writer=GenerateWriter,
    write_problem=write_problem,
)
