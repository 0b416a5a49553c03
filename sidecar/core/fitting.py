"""Which arms of a route can serve a request at all: step 2 of the order in which an arm is found (docs/architecture.md).

Three things must hold.
  * Its upstream speaks the request's dialect, or the request can be said in the one that it speaks: `Facts.lost` lists, for
    each upstream where it has to be translated, what its format cannot say. With losses an arm fits only where the route
    allows them, and then they are told to the client.
  * The model can do what the request needs (tools, images, ...), as far as that is known (`core.abilities`).
  * It has room: the estimated input and the answer that was asked for fit in its context, and the answer is no longer than
    it can give. A request that says nothing of the answer's length leaves room for RESERVE tokens. Where nobody has room,
    the arm with the most room serves: the estimate may be wrong.

A request that carries an arm's state goes to that arm, or to an able one at the same upstream; where there is none, the arm
itself says what it cannot do. The answer is a pure function of route, upstreams and facts; for a request that needs neither
translation nor anything that an arm lacks it is looked up.

What it does not know: whether an upstream is up (breaker), what rules say, what an arm is worth. What the app asked for by
itself (`as asked`) is never measured here.
"""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Final

from msgspec.structs import replace

from sidecar.core.abilities import Limits, named
from sidecar.core.policy import Route, Upstream
from sidecar.core.types import Decision, Dialect, Facts, Refusal

CLIENTS: tuple[Dialect, ...] = ("openai", "anthropic", "gemini")  # the dialects that clients speak
RESERVE: Final = 1_024  # tokens of an answer whose length nobody said; fewer: answers are cut, more: arms stand idle
_MAX_NAMED = 8  # members that a refusal names
_MAX_NAME_CHARS = 200  # they may be the app's own text


def untranslatable(lost: tuple[str, ...]) -> Refusal:
    """What a client is told whose call cannot be said to the only model that could serve it."""
    listed = ", ".join(name[:_MAX_NAME_CHARS] for name in lost[:_MAX_NAMED]) + (
        f" and {len(lost) - _MAX_NAMED} more" if len(lost) > _MAX_NAMED else ""
    )
    text = (
        f"the model speaks another dialect, which cannot say: {listed}; leave that out, or set allow_loss in the policy"
    )
    return Refusal(400, "translation", text)


def lost_at(facts: Facts, upstream: str, model: str) -> tuple[str, ...] | None:
    """The members of the call that cannot be said to this model of an upstream; None where it is asked as it is."""
    found = facts.lost.get(f"{upstream}\n{model}")
    return facts.lost.get(upstream) if found is None else found


def unable(limits: Limits, facts: Facts) -> str:
    """Why a model with these limits cannot serve the request: the names of what it lacks, else `context_tokens` or
    `max_output_tokens` where it has no room; "" when it can, as far as is known."""
    missing = facts.needs & limits.lacks
    if missing:
        return ", ".join(named(missing))
    if facts.output_tokens > limits.output_tokens:
        return "max_output_tokens"
    output = facts.output_tokens or min(RESERVE, limits.output_tokens)
    return "context_tokens" if facts.context_tokens and facts.context_tokens + output > limits.context_tokens else ""


class Fitting:
    """The arms of one route, by what they can serve."""

    def __init__(self, route: Route, upstreams: Mapping[str, Upstream]) -> None:
        self._upstreams = upstreams
        self._homes = {arm.id: arm.upstream for arm in route.all_arms}
        self._models = {arm.id: arm.model for arm in route.all_arms}
        self._limits = {arm.id: arm.capabilities.limits for arm in route.all_arms}
        self.limited = any(limits.any for limits in self._limits.values())  # some request does not fit some arm
        known = self._limits.values()
        self._lacked = reduce(or_, (limits.lacks for limits in known))  # by some arm or other
        self._least_context = min(limits.context_tokens for limits in known)
        self._least_output = min(limits.output_tokens for limits in known)
        self._allow_loss = route.allow_loss
        self._native = {
            dialect: tuple(arm for arm, home in self._homes.items() if self._speaks(home, dialect))
            for dialect in CLIENTS
        }

    def usual(self, facts: Facts) -> tuple[str, ...] | None:
        """`arms` of a request that needs neither translation nor anything that an arm lacks; None of any other."""
        return None if facts.lost or not self._suits_all(facts) else self._native[facts.dialect]

    def arms(self, facts: Facts) -> tuple[str, ...]:
        """The ids of the arms that can serve this request, in the policy's order."""
        speaking = self._speaking(facts)
        if self._suits_all(facts):
            return speaking
        why = {arm: unable(self._limits[arm], facts) for arm in speaking}
        able = tuple(arm for arm in speaking if not why[arm])
        if len(able) == len(speaking):
            return speaking
        pinned = facts.pinned
        if pinned is not None and why.get(pinned):
            near = tuple(arm for arm in able if self._homes[arm] == self._homes[pinned])
            return near or (pinned,)
        return able or self._roomiest(speaking, facts)

    def note(self, decision: Decision, facts: Facts) -> Decision:
        """The decision, with the arms that could not serve the request and why, where there are any."""
        if self._suits_all(facts):
            return decision
        why = [(arm, unable(self._limits[arm], facts)) for arm in self._speaking(facts)]
        out = tuple(one for one in why if one[1])
        return replace(decision, left_out=out) if out else decision

    def serves(self, upstream: str, model: str, facts: Facts) -> bool:
        """Whether this model of an upstream can be asked: in the request's own dialect, or in another that can say it."""
        lost = lost_at(facts, upstream, model)
        if lost is None:
            return self._speaks(upstream, facts.dialect)
        return not lost or self._allow_loss

    def _suits_all(self, facts: Facts) -> bool:
        """Whether nothing that any arm lacks is needed: most requests, found without asking each arm."""
        output, context = facts.output_tokens, facts.context_tokens
        return (
            not facts.needs & self._lacked
            and output <= self._least_output
            and (not context or context + (output or RESERVE) <= self._least_context)
        )

    def _speaking(self, facts: Facts) -> tuple[str, ...]:
        if facts.lost.keys().isdisjoint(self._homes.values()):
            return self._native[facts.dialect]
        return tuple(arm for arm, home in self._homes.items() if self.serves(home, self._models[arm], facts))

    def _roomiest(self, speaking: tuple[str, ...], facts: Facts) -> tuple[str, ...]:
        """Where nobody has room: of those that can do what is needed, the one with the most."""
        capable = [arm for arm in speaking if not facts.needs & self._limits[arm].lacks]
        return (max(capable, key=lambda arm: self._room(arm, facts)),) if capable else ()

    def _room(self, arm: str, facts: Facts) -> tuple[bool, float]:
        """Those whose context may suffice come first, by the answer that they can give; the others by their context."""
        limits = self._limits[arm]
        holds = facts.context_tokens + RESERVE <= limits.context_tokens
        return holds, limits.output_tokens if holds else limits.context_tokens

    def _speaks(self, upstream: str, dialect: str) -> bool:
        found = self._upstreams.get(upstream)
        return found is not None and found.dialect == dialect
