"""OpenAI chat completions: the spoke. What is read and written how stands at the head of each of its files.

chat_parts < chat_calls < chat_messages < chat_request < chat_answer < chat_choice < chat_read
chat_problem                                            < chat_write
"""

from typing import Final

from sidecar.wire.openai_problem import read_problem, write_problem
from sidecar.wire.spoke import Spoke
from sidecar.wire.spokes.chat.answer import read_response, write_response
from sidecar.wire.spokes.chat.read import ChatReader
from sidecar.wire.spokes.chat.request import read_request, write_request
from sidecar.wire.spokes.chat.write import ChatWriter

SPOKE: Final = Spoke(
    format="chat",
    framing="sse",
    read_request=read_request,
    write_request=write_request,
    read_response=read_response,
    write_response=write_response,
    stream_reader=ChatReader,
    stream_writer=ChatWriter,
    read_problem=read_problem,
    write_problem=write_problem,
)
