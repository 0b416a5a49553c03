"""Copies of finished calls: a paced sample of them is sent to the shadow arm too, and only its figures are kept.

The copy leaves after the client has its whole answer, on connections of its own (`proxy.errand`). What is not copied: a
call that carries or leaves state (server-side tools, `store: true`, conversations), because sending it twice is not
what the app asked for; a call that was not completed; a body of more than 1 MiB. A Responses call says `store: false`
in its copy, because there the server keeps what nobody forbids.
"""

from functools import partial
from typing import Final

from msgspec.structs import replace

from sidecar.clock import steady
from sidecar.core.fitting import unable
from sidecar.core.paired import Pairs
from sidecar.core.policy import Arm, RolloutSpec, Route, Shadow
from sidecar.core.reward import validate
from sidecar.core.types import SELECTABLE, Decision, Facts, Outcome, Settled
from sidecar.proxy.errand import USAGE_REFUSED, Errands, Task
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import Origin
from sidecar.proxy.outgoing import ASKABLE, placed
from sidecar.proxy.plane import Plane
from sidecar.proxy.purse import Purse
from sidecar.proxy.seen import Seen, may_carry, same_place
from sidecar.wire.json_edit import edit_request
from sidecar.wire.providers import FORMATS

KIND: Final = "shadow"
MAX_BODY_BYTES: Final = 1024 * 1024
_USUAL_TOKENS: Final = 1_024  # reserved where the call does not limit its answer and the served one was short
_SURE: Final = 2  # 1..10 copies in a row; one may be refused for another reason and have its text repeated
_DO_NOT_STORE: Final = (("store", b"false"),)


def may_copy(facts: Facts, body: bytes) -> bool:
    """Whether this call may be sent twice at all."""
    if facts.endpoint not in SELECTABLE or facts.stateful or facts.pinned is not None or facts.off:
        return False
    if facts.model is None or not 0 < len(body) <= MAX_BODY_BYTES:
        return False
    return facts.endpoint != "responses" or b'"background"' not in body


class Shadowing:
    """The shadow of one route."""

    def __init__(self, plane: Plane, errands: Errands, route: Route, spec: Shadow) -> None:
        self.spec = spec
        self.arm: Arm = next(arm for arm in route.arms if arm.id == spec.arm)
        self.guardrails = route.rollout or RolloutSpec(strategy="shadow")
        self.validators = route.quality.validators
        self.purse = Purse(plane, errands, KIND, spec)
        self.pairs = Pairs(route.name, spec.arm, self.guardrails, steady())
        self.out = False  # it was rolled back
        self._refused = 0  # copies in a row that asked for usage and were refused for it, as it seems
        self._refused_by: Origin | None = None
        self._plane = plane

    def take_over(self, before: "Shadowing") -> None:
        """Goes on with the pairs of the same arm under the same guardrails, and with what was spent."""
        self.purse.take_over(before.purse)
        if before.arm == self.arm:
            self._refused, self._refused_by = before._refused, before._refused_by
        if (before.arm, before.guardrails) == (self.arm, self.guardrails):
            self.pairs = before.pairs

    def copy(self, settled: Settled, seen: Seen, way: Way) -> None:
        """Sends one finished call to the shadow arm, when it may go there and there is money for it."""
        origin = self._plane.origins.get(self.arm.upstream)
        if origin is None or not _speaks(origin, way) or not _fits(origin, seen):
            return
        if unable(self.arm.capabilities.limits, settled.facts):
            return
        if (settled.outcome.served_arm or settled.decision.arm) == self.arm.id:
            return
        reserved_nusd = self.purse.reserve(origin, self.arm.model, len(seen.body), _tokens(settled))
        if reserved_nusd is None:
            return
        facts = replace(settled.facts, model=self.arm.model)
        decision = self._decision(settled, origin)
        asks = facts.stream and facts.endpoint in ASKABLE and seen.view.askable
        if origin is not self._refused_by:
            self._refused, self._refused_by = 0, origin
        asks = asks and origin.asks(self.arm.model) and self._refused < _SURE
        task = Task(
            origin=origin,
            head=seen.head,
            way=way,
            body=self._body(facts, seen, origin if asks else None),
            facts=facts,
            decision=decision,
            done=self.purse.done(settled, decision, reserved_nusd, partial(self._paired, asks)),
            asked=asks,
        )
        self.purse.send(task, reserved_nusd)

    def _paired(self, asked: bool, settled: Settled, outcome: Outcome, _body: bytes) -> None:
        """The copy is over: the two outcomes make a pair."""
        if outcome.error == USAGE_REFUSED:
            self._refused += 1
        elif asked and outcome.kind == "completed":
            self._refused = 0
        if outcome.kind == "aborted":  # by us: it says nothing of the arm
            return
        served = settled.outcome
        pair = ((served, validate(served, self.validators)), (outcome, validate(outcome, self.validators)))
        events = self.pairs.add(*pair, steady())
        if events:
            self._plane.on_events(events)

    def _decision(self, settled: Settled, origin: Origin) -> Decision:
        return Decision(
            route=settled.decision.route,
            mode="shadow",
            arm=self.arm.id,
            upstream=origin.name,
            model=self.arm.model,
            reason="policy",
            propensity=self.spec.sample,
            params=self.arm.params,
        )

    def _body(self, facts: Facts, seen: Seen, asked: Origin | None) -> bytes:
        """The call as the other arm gets it; `asked` is who is also asked for usage."""
        params = self.arm.params if asked is None else (*asked.provider.asks, *self.arm.params)
        if facts.endpoint == "responses":
            params = (*(one for one in params if one[0] != "store"), *_DO_NOT_STORE)
        model = None if facts.endpoint == "generate" else self.arm.model  # there the path says it
        params = placed(facts.endpoint, seen.body, params, seen.view)
        return edit_request(seen.body, model=model, params=params, ask_usage=asked is not None, view=seen.view)


def _tokens(settled: Settled) -> int:
    """Output tokens to reserve for a copy: as many as the call allows, or twice what the served answer had."""
    usage, limit = settled.outcome.usage, settled.facts.max_tokens
    seen_tokens = 0 if usage is None else usage.output_tokens or 0
    return max(_USUAL_TOKENS, 2 * seen_tokens) if limit is None else limit


def _speaks(origin: Origin, way: Way) -> bool:
    """Whether the copy is understood there as it is; nothing is translated for it."""
    form = FORMATS.get(way.endpoint)
    return origin.spec.dialect == way.dialect and (form is None or form in origin.provider.paths)


def _fits(origin: Origin, seen: Seen) -> bool:
    """Whether the copy may go there: authorised, and without a query (it may hold a key) on its way to another place."""
    return may_carry(origin, seen.origin) and (same_place(origin, seen.origin) or b"?" not in seen.head.target)
