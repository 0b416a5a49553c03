"""Judges one exchange of a campaign of faults: what the client saw against what the plan and the relays did to it.

The promises are those of the README, "when things go wrong": a complete answer is the upstream's to the byte
(translated: to the word); what the upstream did not finish is never seen as finished; what is silent ends by a 504 or
a visible cut; who leaves costs the upstream nothing more; and a good answer to a client that stayed is never lost.
Each broken promise is a sentence.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.e2e.fault_client import View, requests
from tests.e2e.fault_plan import FLOOD, TIMEOUT_S, Plan
from tests.e2e.fault_wire import judge_fields, judge_requests
from tests.fixtures.answers import Answer, ended, read_answer, said, without_usage
from tests.fixtures.relay import Passage

_CODE = re.compile(rb'"code":"([a-z_]+)"|\(([a-z_]+)\)"')
_TRIES = {"fall": 2, "cross": 2, "climb": 2, "dead": 1}  # calls that reach an upstream, at most; elsewhere one
CLOSED_S = 1.5 * TIMEOUT_S  # for one of them, on a machine that others use too; the median has a bound of its own
_SILENCE_S = 0.4 * TIMEOUT_S  # the relay is late to see what the sidecar sent, on a machine that others use too


@dataclass(slots=True)
class Seen:
    """What is left of an exchange when it has been looked at."""

    plan: Plan
    sent: Answer  # by the sidecar, the first answer
    own: str  # the code of an answer of the sidecar's own
    gone: bool  # the client had left, as the sidecar sees it
    whole_request: bool
    broken: list[str]
    given: Answer = field(default_factory=lambda: Answer("none"))  # by the upstream that was asked last
    died: bool = False  # an upstream's connection ended on it
    calls: int = 0  # to upstreams
    end: str = ""  # as its client saw it
    took_s: float = 0.0  # by its client's clock
    noisy: bool = False  # garbage was in what an upstream said
    met: bool = False  # each of its toxics came to pass: one that waits for more bytes than there are does not
    closed_s: float | None = None  # from the client's leaving to the end of the upstream's connection

    def heard(self, calls: Sequence[Passage]) -> None:
        """Takes in what its calls to upstreams came to; also later, when there were none yet as its client left."""
        if calls:
            self.given = read_answer(bytes(calls[-1].went["down"]))
            self.calls, self.noisy = len(calls), _noisy(calls)
            self.died = any(one.told["down"] for one in calls)

    @property
    def decision(self) -> str:
        return self.sent.value("x-sidecar-decision")


def judge(plan: Plan, client: Passage | None, calls: Sequence[Passage], view: View) -> Seen:
    """Looks at the bytes of one exchange. `calls` are its calls to upstreams, in order."""
    raw = bytes(client.came["down"]) if client is not None else b""
    sent = read_answer(raw, _end_of(client))
    asked = requests(plan)
    arrived = bytes(client.went["up"]) if client is not None else b""
    gone = client is not None and bool(client.told["up"])
    firsts = [one for one in calls if one.mark.endswith("a")]
    seen = Seen(plan, sent, _own(sent), gone, arrived == asked, [])
    seen.end, seen.took_s = view.end, view.took_s
    fired = {one for call in calls for one in call.fired}
    seen.met = fired.issuperset(plan.upstream) and (client.fired if client else fired).issuperset(plan.client)
    seen.heard(firsts)
    timed = client is not None and gone and firsts and not plan.upstream and seen.given.state != "whole"
    if timed and client is not None and firsts[-1].left_at > client.told_at:
        seen.closed_s = firsts[-1].left_at - client.told_at
        if seen.closed_s > CLOSED_S:
            seen.broken.append(f"its upstream learnt {seen.closed_s:.2f} s later that the client had left")
    if len(firsts) > _TRIES.get(plan.shape.route, 1):
        seen.broken.append(f"an upstream was called {len(firsts)} times")
    seen.broken += judge_requests(plan, calls, raw)
    if sent.state == "malformed":
        seen.broken.append(f"the sidecar sent what is no HTTP: {raw[:80]!r}")
        return seen
    if not seen.whole_request:
        _judge_partial(seen, arrived, calls)
    elif plan.shape.refused:
        _judge_refusal(seen, calls)
    else:
        _judge_answer(seen, firsts)
        if plan.shape.twice and sent.state == "whole" and sent.status < 500:
            _judge_second(seen, calls)
    _judge_view(seen, client, raw, view)
    return seen


def _end_of(client: Passage | None) -> str:
    """How the sidecar ended its connection; nothing where its client's reset had ended it before."""
    return "" if client is None or client.told["up"] == "reset" else client.left["down"]


def _own(sent: Answer) -> str:
    """The code of an answer that the sidecar itself gave; empty when it is an upstream's."""
    if sent.value("x-sidecar-error"):
        return sent.value("x-sidecar-error")
    if sent.status < 400 or sent.value("x-sidecar-decision"):
        return ""
    found = _CODE.search(sent.payload)
    return (found[1] or found[2]).decode() if found else "own"


def _judge_partial(seen: Seen, arrived: bytes, calls: Sequence[Passage]) -> None:
    """The request did not arrive as it was written: it is refused, or the client is taken to have left."""
    noise = any(one.kind == "garbage" for one in seen.plan.client)
    if seen.plan.shape.twice or noise:
        return  # then a whole request may be among what arrived
    if seen.sent.status and seen.sent.status < 400:
        seen.broken.append(f"answered {seen.sent.status} to a request of which {len(arrived)} bytes came")
    whole = [one for one in calls if read_answer(bytes(one.went["down"])).status in range(200, 300)]
    if whole:
        seen.broken.append("an upstream was given a whole request that the client had not sent whole")


def _judge_refusal(seen: Seen, calls: Sequence[Passage]) -> None:
    shape, sent = seen.plan.shape, seen.sent
    if sent.state != "whole" and not seen.gone:
        seen.broken.append(f"no refusal: {sent.state}")
    elif sent.status and sent.status != shape.refused:
        seen.broken.append(f"refused with {sent.status} and not with {shape.refused}")
    if calls:
        seen.broken.append("a refused call reached an upstream")


def _judge_answer(seen: Seen, calls: Sequence[Passage]) -> None:
    sent, given = seen.sent, seen.given
    if sent.status and given.status and not (seen.own or seen.noisy):
        seen.broken += judge_fields(seen.plan, given, sent)
    if seen.own:
        if (wrong := _own_wrong(seen, calls)) is not None:
            seen.broken.append(f"{sent.status} {seen.own}, but {wrong}")
    elif sent.state == "whole":
        _judge_whole(seen, calls)
    elif sent.state in ("cut", "head"):
        if given.state == "whole" and not seen.gone and not _noisy(calls):
            seen.broken.append("the answer was cut although the upstream's was whole")
        _judge_prefix(seen, calls)
    elif not seen.gone:
        seen.broken.append(f"no answer to a client that stayed (the upstream's was {given.state})")


def _own_wrong(seen: Seen, calls: Sequence[Passage]) -> str | None:
    """Why the sidecar had no reason for this error; None when it had."""
    given = seen.given
    last = calls[-1] if calls else None
    kin = seen.plan.shape.kin
    match seen.own:
        case "connect":
            return None if seen.plan.shape.route == "dead" and not calls else "the upstream listens"
        case "upstream_closed":
            over = last is not None and bool(last.told["down"])
            return None if over and given.state in ("none", "head") else f"the upstream's answer was {given.state}"
        case "bad_response":
            translated = kin in ("text", "none") and (given.state != "whole" or _noisy(calls))
            held = seen.plan.shape.route == "climb" and given.state != "whole"
            bad = given.state == "malformed" or translated or held or _noisy(calls)
            return None if bad else f"the upstream's answer was {given.state}"
        case "timeout_first_byte" | "timeout_idle":
            silent_s = last.silent_s if last is not None else 0.0
            return None if silent_s >= _SILENCE_S else f"the upstream was silent for {silent_s:.2f} s only"
        case "overloaded":
            told = seen.sent.status == 503 and seen.sent.value("retry-after")
            return None if told and seen.plan.shape is FLOOD and not calls else "there was room"
        case _:
            return "there is no reason for it"


def _noisy(calls: Sequence[Passage]) -> bool:
    """Whether garbage came down: where it stands in a head or behind the end, readers may differ."""
    return any(one.kind == "garbage" and one.direction == "down" for call in calls for one in call.fired)


def _judge_whole(seen: Seen, calls: Sequence[Passage]) -> None:
    shape, sent, given = seen.plan.shape, seen.sent, seen.given
    if given.state != "whole":
        if not (_noisy(calls) and given.state == "malformed" and given.status == 0):
            seen.broken.append(f"a complete answer, but the upstream's was {given.state}")
        return
    if sent.status != given.status:
        seen.broken.append(f"status {sent.status}, but the upstream said {given.status}")
    elif given.status >= 400 or shape.kin == "bytes":
        if shape.kin in ("bytes", "usage") and sent.payload != given.payload:
            seen.broken.append(_difference(sent.payload, given.payload))
    elif shape.kin == "usage" and sent.payload != without_usage(given.payload):
        seen.broken.append(_difference(sent.payload, without_usage(given.payload)))
    elif shape.kin == "text" and not _noisy(calls):
        ours, theirs = said(sent.payload, shape.stream), said(given.payload, shape.stream)
        if ours != theirs or not ours:
            seen.broken.append(_difference(ours.encode(), theirs.encode()))
        if shape.stream and not ended(sent.payload):
            seen.broken.append("a translated stream without its last event ended well-formed")


def _judge_prefix(seen: Seen, calls: Sequence[Passage]) -> None:
    """A cut answer says nothing that the upstream did not say, all that it said, and does not look complete."""
    shape, sent, given = seen.plan.shape, seen.sent, seen.given
    payload = without_usage(given.payload) if shape.kin == "usage" else given.payload
    if shape.kin in ("bytes", "usage") and not payload.startswith(sent.payload):
        seen.broken.append("cut, and " + _difference(sent.payload, payload[: len(sent.payload)]))
    if shape.kin == "bytes" and len(sent.payload) < len(payload) and _lasts(seen, calls):
        seen.broken.append(f"cut, and {len(payload) - len(sent.payload)} bytes are missing that the upstream had sent")
    if shape.kin == "text" and shape.stream:
        if not said(payload, True).startswith(said(sent.payload, True)):
            seen.broken.append("cut, and its text is not the upstream's")
        if ended(sent.payload) and not ended(payload):
            seen.broken.append("a cut stream has its dialect's last event, which the upstream never sent")


def _lasts(seen: Seen, calls: Sequence[Passage]) -> bool:
    """Whether nothing but the sidecar could lose bytes: a reset overtakes them, and so does the end of an upload."""
    framed = seen.sent.value("transfer-encoding") or seen.sent.value("content-length")
    upset = seen.gone or seen.noisy or seen.plan.client or seen.plan.leave or seen.plan.shape.upload
    return bool(framed and calls and not upset and calls[-1].told["down"] != "reset")


def _judge_second(seen: Seen, calls: Sequence[Passage]) -> None:
    """Two requests in one write: both are answered, in order."""
    second = read_answer(seen.sent.rest)
    given = [read_answer(bytes(one.went["down"])) for one in calls]
    whole = {one.payload for one in given if one.state == "whole"}
    if second.state == "whole" and not _own(second) and second.payload not in whole:
        seen.broken.append("the second of two answers is no answer of the upstream")
    if seen.gone or seen.plan.leave or seen.plan.client or seen.sent.value("connection") == "close":
        return
    if second.state != "whole" and not seen.plan.upstream:
        seen.broken.append(f"the second of two requests got {second.state}")


def _judge_view(seen: Seen, client: Passage | None, raw: bytes, view: View) -> None:
    """What the client has is what the sidecar sent, and a connection that was cut ended."""
    fired = client.fired if client is not None else set()
    spoiled = any(one.direction == "down" or one.kind == "garbage" for one in fired)
    if spoiled or view.end == "left" or (client is not None and client.told["down"] == "reset"):
        return
    if view.raw != raw:
        seen.broken.append(f"the client has {len(view.raw)} bytes of the {len(raw)} that the sidecar sent")
    if seen.sent.state in ("none", "head", "cut") and view.end == "silent":
        seen.broken.append(f"the client waits for ever: {seen.sent.state}")


def _difference(ours: bytes, theirs: bytes) -> str:
    pairs = zip(ours, theirs, strict=False)
    at = next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))
    return f"{len(ours)} bytes and not {len(theirs)}; they differ at {at}: {ours[at : at + 40]!r}, {theirs[at : at + 40]!r}"
