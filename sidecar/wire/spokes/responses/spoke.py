"""OpenAI Responses: the spoke. What is read and written how stands at the head of each of its files.

responses_parts < responses_items < responses_input < responses_request < responses_answer < responses_read
responses_logprobs                                  < responses_tools                       < responses_write
"""

from typing import Final

from sidecar.wire.openai_problem import read_problem
from sidecar.wire.spoke import Spoke
from sidecar.wire.spokes.responses.answer import read_response, write_response
from sidecar.wire.spokes.responses.problem import write_problem
from sidecar.wire.spokes.responses.read import ResponsesReader
from sidecar.wire.spokes.responses.request import read_request, write_request
from sidecar.wire.spokes.responses.write import ResponsesWriter

SPOKE: Final = Spoke(
    format="responses",
    framing="sse",
    read_request=read_request,
    write_request=write_request,
    read_response=read_response,
    write_response=write_response,
    stream_reader=ResponsesReader,
    stream_writer=ResponsesWriter,
    read_problem=read_problem,
    write_problem=write_problem,
)
