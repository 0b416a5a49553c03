"""`python -m tests.e2e.secret_faults run ...`: the sidecar with a fault in the stage that a file names; its text is secret.

SECRET_FAULT names the file. While it holds the name of a stage of `STAGES` (or several, in lines), that function raises with
everything that it was given in the exception's text; the name then goes to the file beside it, `.raised`. With SECRET_TOLD
the process tells such texts, as it must not: so a test can show that its sweep would find them.
"""

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog

from sidecar.cli import main

STAGES = {  # name -> module:function, or module:class.function
    "read": "sidecar.proxy.downstream:Downstream.data_received",
    "parse": "sidecar.proxy.heads:parse_request",
    "gate": "sidecar.proxy.gate:Gate.admit",
    "token": "sidecar.config.secrets:ClientTokens.service_of",
    "scan": "sidecar.proxy.intake:Intake._read_body",
    "facts": "sidecar.proxy.exchange:facts_of",
    "engine": "sidecar.core.engine:Engine.decide",
    "edit": "sidecar.proxy.outward:outgoing",
    "translate": "sidecar.proxy.translated:say",
    "keys": "sidecar.config.secrets:KeyRing.get",
    "sign": "sidecar.proxy.origin:sign",
    "take": "sidecar.proxy.upstream:Pool.take",
    "dial": "sidecar.proxy.dial:Dialer.connect",
    "answered": "sidecar.proxy.upstream:UpstreamConnection.data_received",
    "head": "sidecar.proxy.inward:parse_response",
    "reply": "sidecar.proxy.reply:Reply.feed",
    "retell": "sidecar.proxy.translated:TranslatedReply._say",
    "meter": "sidecar.wire.meter:StreamMeter.feed",
    "check": "sidecar.proxy.checks:Checks.found",
    "judge": "sidecar.proxy.judge:Judging.grade",
    "outcome": "sidecar.proxy.ending:outcome_of",
    "settle": "sidecar.core.engine:Engine.settle",
    "row": "sidecar.control.loop:row",
    "metrics": "sidecar.telemetry.metrics:Metrics.observe",
    "log": "sidecar.telemetry.log:RequestLog.observe",
    "spans": "sidecar.telemetry.spans:Spans._record",
    "put": "sidecar.control.archive:Archive.put",
    "write": "sidecar.store.writer:write",
    "thread": "sidecar.store.writer:Writer._take",
    "snapshot": "sidecar.core.engine:Engine.snapshot",
    "tick": "sidecar.core.engine:Engine.tick",
    "policy": "sidecar.config.watch:PolicySource.changed",
    "feedback": "sidecar.control.feedback:FeedbackDesk.handle",
    "look up": "sidecar.control.archive:Archive.look_up",
    "roles": "sidecar.control.access:Access.caller",
    "status": "sidecar.core.engine:Engine.status",
    "render": "sidecar.telemetry.metrics:Metrics.render",
}


def spoiled(name: str, inner: Callable[..., Any], fault: Path) -> Callable[..., Any]:
    """The function with the stage's fault."""

    @functools.wraps(inner)
    def stage(*args: Any, **more: Any) -> Any:
        if name in fault.read_text().split("\n"):
            with fault.with_suffix(".raised").open("a") as raised:
                raised.write(name + "\n")
            raise ValueError(f"{os.environ['SECRET_TEXT']} {_all(args)} {more}")
        return inner(*args, **more)

    return stage


def _all(args: tuple[Any, ...]) -> str:
    """What was given, also what an object holds."""
    return " ".join(f"{one!r} {getattr(one, '__dict__', '')!r}" for one in args)


def spoil(fault: Path) -> None:
    """Puts a fault into each stage."""
    for name, where in STAGES.items():
        module, _, path = where.partition(":")
        owner: Any = import_module(module)
        *above, last = path.split(".")
        for part in above:
            owner = getattr(owner, part)
        setattr(owner, last, spoiled(name, getattr(owner, last), fault))


def _telling(_self: object, where: str, error: BaseException) -> None:
    structlog.get_logger().error("told", where=where, text=str(error))


if __name__ == "__main__":
    spoil(Path(os.environ["SECRET_FAULT"]))
    if os.environ.get("SECRET_TOLD"):
        import_module("sidecar.app").Sidecar.on_bug = _telling
    sys.exit(main())
