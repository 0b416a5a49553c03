"""What becomes of each conversation between a client and an arm of another dialect: what the arm is asked, what the client
is told. The pure translation only, so that equal code gives equal bytes; the real process is held against it elsewhere.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from sidecar.core.fitting import untranslatable
from sidecar.core.types import Dialect
from sidecar.proxy.answer import error_body
from sidecar.wire.neutral import Report
from sidecar.wire.target import path_segment
from sidecar.wire.translate import Named, StreamedAnswer, WholeAnswer, changes, losses, read, say
from tests.golden import form
from tests.golden.conversations import HERE, conversation, provider_at
from tests.golden.names import MODELS, PAIRS, SCENARIOS, Format

EXPECTED: Final = HERE / "expected"
DIALECTS: Final[dict[Format, Dialect]] = {
    "chat": "openai", "responses": "openai", "messages": "anthropic", "generate": "gemini",
}  # fmt: skip
ID: Final = "golden"  # what the sidecar calls an answer whose provider gave it no id
CREATED: Final = 1763000009  # and when it was asked
Sections = dict[str, tuple[str, str]]


class Crossing:
    """One conversation of one pair, whole or streamed. `body` is what the arm gets, `told` what the client gets."""

    def __init__(self, client: Format, arm: Format, scenario: str, *, streamed: bool) -> None:
        own, far = conversation(scenario, client), conversation(scenario, arm)
        provider = provider_at(client, arm)
        asked = own.streamed_request if streamed else own.request
        request = read(json.dumps(asked).encode(), client, MODELS[client], stream=streamed)
        report = Report()
        self.lost = losses(replace(request, model=MODELS[arm]), arm, provider)
        self.body: dict[str, Any] = json.loads(say(request, arm, provider, MODELS[arm], report))
        paths = provider.streams if streamed and arm in provider.streams else provider.paths
        self.path = paths[arm].replace("{model}", path_segment(MODELS[arm]).decode())
        self.changed_before = changes(report)
        self.status = 200 if streamed else far.status
        named = Named(ID, MODELS[arm], CREATED)
        answer: WholeAnswer | StreamedAnswer
        if streamed:
            answer = StreamedAnswer(request, arm, report, named)
        else:
            answer = WholeAnswer(request, arm, far.status, report, named)
        told = answer.feed(far.body(streamed=streamed))
        self.told = told + (b"" if isinstance(answer, StreamedAnswer) and answer.done else answer.end())
        self.changed = changes(report)  # what a whole answer's head tells; that of a stream is sent before the answer
        self.refused = self._refused(client) if self.lost else b""

    def _refused(self, client: Format) -> bytes:
        """The answer to a client whose policy allows no loss."""
        refusal = untranslatable(self.lost)
        return error_body(DIALECTS[client], refusal.status, refusal.code, refusal.message)


@cache
def crossing(client: Format, arm: Format, scenario: str, streamed: bool) -> Crossing:
    return Crossing(client, arm, scenario, streamed=streamed)


def file_of(client: Format, arm: Format, scenario: str) -> Path:
    return EXPECTED / f"{client}-{arm}" / f"{scenario}.txt"


def sections(client: Format, arm: Format, scenario: str) -> Sections:
    """The expectation of one conversation, as its file has it."""
    whole, streamed = (crossing(client, arm, scenario, flag) for flag in (False, True))
    said: Sections = {}
    if whole.refused:
        said["refused"] = ("400", form.pretty(json.loads(whole.refused)))
    said["asked"] = (f"POST {whole.path}", form.pretty(whole.body))
    more = {name: value for name, value in streamed.body.items() if whole.body.get(name) != value}
    assert whole.body | more == streamed.body, "a streamed call says more, and nothing less"
    said["asked-streamed"] = (f"POST {streamed.path}", f"the same{' and ' + form.pretty(more) if more else ''}")
    said["changed"] = ("", whole.changed)
    if streamed.changed_before != whole.changed:
        said["changed-streamed"] = ("", streamed.changed_before)
    said["answer"] = (str(whole.status), form.pretty(json.loads(whole.told)))
    said["stream"] = ("200", streamed.told.decode().strip("\n"))
    return said


def files() -> Iterator[tuple[Path, str]]:
    """Each expectation file and what stands in it."""
    for client, arm in PAIRS:
        for scenario in SCENARIOS:
            yield file_of(client, arm, scenario), form.written(sections(client, arm, scenario))
