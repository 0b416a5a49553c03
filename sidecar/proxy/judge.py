"""Grades of finished answers: a judge model is asked about a paced sample of them, and what it says is a label.

The question and the answer are in memory for as long as the errand takes (32 K characters each; what is longer is not
graded) and nowhere else: not in a row, an event, a log line or an error. A call that fails, and a reply without a clear
grade, make no label. What it costs is booked on the route, like any call.
"""

from functools import partial
from typing import Final

from sidecar.core.policy import Judge
from sidecar.core.spare import chance
from sidecar.core.types import Decision, Facts, Outcome, Settled
from sidecar.proxy.errand import Errands, Task
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import CREDENTIALS, Origin
from sidecar.proxy.plane import Plane
from sidecar.proxy.purse import Purse
from sidecar.proxy.seen import Seen, may_carry
from sidecar.wire.answer import Said
from sidecar.wire.conversation import last_user_text
from sidecar.wire.http1 import RequestHead, parse_request
from sidecar.wire.judge import MAX_GRADE_TOKENS, MAX_TEXT_CHARS, answer_text, grade_of, path_of, question

SOURCE: Final = "judge"
_KEEP_BYTES: Final = 64 * 1024  # of the judge's reply
_ANTHROPIC_VERSION: Final = b"anthropic-version: 2023-06-01\r\n"


class Judging:
    """The judge of one route."""

    def __init__(self, plane: Plane, errands: Errands, spec: Judge) -> None:
        self.spec = spec
        self.purse = Purse(plane, errands, SOURCE, spec)
        self.graded = 0
        self._plane = plane

    def take_over(self, before: "Judging") -> None:
        """Goes on with what was spent under an earlier policy."""
        self.purse.take_over(before.purse)
        self.graded = before.graded

    def chance(self, labels: int) -> float:
        """The probability with which an answer of an arm with so many labels is graded."""
        return chance(self.spec.sample, labels)

    def grade(self, settled: Settled, seen: Seen, said: Said | None, propensity: float) -> None:
        """Asks the judge about one answer, when it can be shown whole and there is money for it."""
        arm = settled.outcome.served_arm or settled.decision.arm
        origin = self._plane.origins.get(self.spec.upstream)
        answer = None if said is None else answer_text(said)
        if arm is None or answer is None or origin is None or not may_carry(origin, seen.origin):
            return
        asked = last_user_text(seen.body, MAX_TEXT_CHARS + 1, seen.view)
        if not 0 < len(asked) <= MAX_TEXT_CHARS:
            return
        model, dialect = self.spec.model, origin.spec.dialect
        if dialect == "cohere" or dialect == "bedrock":
            return
        body = question(dialect, model, asked, answer, self.spec.criteria)
        reserved_nusd = self.purse.reserve(origin, model, len(body), MAX_GRADE_TOKENS)
        if reserved_nusd is None:
            return
        decision = _decision(settled, origin, model, propensity)
        endpoint, path = path_of(dialect, model)
        way = Way(endpoint, dialect, path)
        task = Task(
            origin=origin,
            head=_head(seen.head, origin, path),
            way=way,
            body=body,
            facts=_facts(way, model, len(body)),
            decision=decision,
            done=self.purse.done(settled, decision, reserved_nusd, partial(self._graded, way)),
            keep_bytes=_KEEP_BYTES,
        )
        self.purse.send(task, reserved_nusd)

    def _graded(self, way: Way, settled: Settled, outcome: Outcome, reply: bytes) -> float | None:
        """The grade of the judge's reply is a label, if there is one."""
        grade = grade_of(way.endpoint, reply) if outcome.kind == "completed" else None
        if grade is not None:
            self.graded += 1
            self._plane.on_label(settled.id, grade)
        return grade


def _decision(settled: Settled, origin: Origin, model: str, propensity: float) -> Decision:
    return Decision(
        route=settled.decision.route,
        mode=settled.decision.mode,
        arm=None,
        upstream=origin.name,
        model=model,
        reason="policy",
        propensity=propensity,
    )


def _facts(way: Way, model: str, size: int) -> Facts:
    return Facts(
        endpoint=way.endpoint, dialect=way.dialect, path=way.path, model=model, stream=False, key=0, input_bytes=size
    )


def _head(client: RequestHead, origin: Origin, path: str) -> RequestHead:
    """A head of our own; the client's credential is in it only where it belongs (`may_carry` was asked)."""
    lines = (
        b"Host: judge\r\nContent-Type: application/json\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
    )
    if origin.spec.dialect == "anthropic":
        lines += _ANTHROPIC_VERSION
    if not (origin.holds_key or client.spent):
        given = [(name, client.fields[name]) for name in CREDENTIALS if name in client.fields]
        lines += b"".join(name + b": " + value + b"\r\n" for name, value in given)
    head = parse_request(b"POST %b HTTP/1.1\r\n%bContent-Length: 0\r\n\r\n" % (path.encode(), lines))
    assert head is not None, "a head of ours is an ordinary one"
    return head
