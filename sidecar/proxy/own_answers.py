"""The answers that an exchange gives itself, while nothing of a response is with the client: refusals and failures."""

from sidecar.core.types import Decision, Facts, OutcomeKind
from sidecar.proxy.answer import NO_RETRY, error_body, response
from sidecar.proxy.intake import Intake
from sidecar.proxy.origin import Origin
from sidecar.proxy.reply import Reply


class OwnAnswers(Intake):
    """The part of an exchange that answers instead of an upstream."""

    facts: Facts
    decision: Decision | None = None
    origin: Origin
    reply: Reply | None = None
    tries = 0  # fallbacks and repeats so far

    @property
    def ends_unmarked(self) -> bool:
        """Whether an answer is with the client of which only the end of its connection tells that it is whole."""
        reply = self.reply
        return reply is not None and (reply.ends_with_connection or not self.head_in.minor)

    def _lines(self) -> bytes:
        decision = self.decision
        assert decision is not None
        model = decision.model or self.facts.model or "-"
        return self.plane.lines(self.origin.name, model, decision.reason)

    def _stalled(self) -> None:
        self._answer(408, "body_stalled", "the request body did not arrive in time", "failed", "timeout_body")

    def _shed(self, message: str) -> None:
        if self.plane.capacity < self.plane.settings.max_streams:
            self.keep_client = False  # descriptors are few, and others want this one
        self._answer(503, "overloaded", message, "failed", "shed", b"retry-after: 1\r\n")

    def _answer(
        self, status: int, code: str, message: str, kind: OutcomeKind, error: str, headers: bytes = b""
    ) -> None:
        """An answer of ours ends the exchange; it is only given while nothing of a response is with the client."""
        if self.tries:
            headers += NO_RETRY
        if self.body_left or not self.head_in.keep_alive or not self.head_in.minor:
            self.keep_client = False
        add = b"x-sidecar-decision: %b\r\nx-sidecar-error: %b\r\n%b" % (self.id.encode(), code.encode(), headers)
        if self.decision is not None and self.decision.refusal is not None:
            add += b"x-sidecar-reason: %b\r\n" % self.decision.reason.encode()  # nobody served: no model is named
        elif self.decision is not None:
            add += self._lines()
        body = error_body(self.way.spoken or self.way.dialect, status, code, message)
        head_only = self.head_in.method == b"HEAD"
        self._drop_upstream()
        self.client.write(response(status, body, headers=add, close=not self.keep_client, head_only=head_only))
        self._finish(kind, error, status=status)
