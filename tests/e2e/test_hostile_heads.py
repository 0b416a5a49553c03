"""Smugglers before a real process: for each request of theirs the upstream receives one well-formed one, or none."""

from collections.abc import Iterator

import pytest

from tests.e2e.hostile import Recorder, asked, connection, read_all, send, statuses
from tests.e2e.process import Sidecar
from tests.fixtures.desync import NEVER_UP, SMUGGLED, Attack, attacks

POLICY = """
version: 1
upstreams:
  azure: {{dialect: openai, provider: azure, base_url: "{url}/openai/v1", api_key: {{env: HELD}}, price: free}}
routes: []
"""
TARGETS = {
    "held": "/v1/chat/completions",  # the body is read whole, then sent
    "passed": "/v1/files",  # the body goes up as it comes
    "azure": "/openai/v1/chat/completions",
}
MANNERS = {"whole": 0, "a byte at a time": 1}
BYSTANDER = "X-Who: a bystander"


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as one:
        yield one


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Iterator[Sidecar]:
    """A process with an upstream for Azure's paths, and short timers for what is never finished."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "policies").mkdir()
    (folder / "policies" / "p.yaml").write_text(POLICY.format(url=recorder.url))
    timers = {"head_timeout": "1s", "body_stall_timeout": "1s"}
    settings = {"policies": folder / "policies", **timers}
    with Sidecar(folder, recorder.url, environ={"HELD": "held-key"}, **settings) as one:
        yield one
        assert one.stop() == 0
        assert "Traceback" not in one.output()
    assert not recorder.broken, "the upstream received what is no request"


def judged(recorder: Recorder, sidecar: Sidecar, attack: Attack, target: str, step: int) -> str | None:
    """What is wrong with the way in which this attack ended; None when nothing is."""
    recorder.take()
    with connection(sidecar.port) as sock:
        send(sock, attack.to(target.encode()), step=step)
        bystander = statuses(asked(sidecar.port, "/v1/chat/completions", BYSTANDER))
        try:
            answer = read_all(sock)
        except TimeoutError:
            return "the connection stays open"
    seen = recorder.take()
    others = [one for one in seen if one.values(b"x-who")]
    mine = [one for one in seen if not one.values(b"x-who")]
    if bystander != [200] or len(others) != 1:
        return f"another client was not served: {bystander}"
    told = statuses(answer)
    if attack.sees is None:
        if mine or len(told) > 1 or any(one < 400 for one in told):
            return f"answered {told}, the upstream saw {mine}"
        return None if told else "closed without a word"
    if told != [200] or len(mine) != 1:
        return f"answered {told}, the upstream saw {mine}"
    (one,) = mine
    if (one.method, one.target, one.body) != (attack.method, target.encode(), attack.sees):
        return f"the upstream saw another request: {one}"
    return next((f"{name!r} went up" for name in NEVER_UP if one.values(name)), None)


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("where", TARGETS)
def test_a_request_is_one_request(recorder: Recorder, sidecar: Sidecar, where: str, manner: str) -> None:
    """INC-42, FID-21, FID-22, SEC-SSRF: the table of `fixtures/desync.py`: refused and closed, or sent on as one request
    with this body; while each attack's connection is open, another client is served."""
    wrong = {}
    for attack in attacks():
        if MANNERS[manner] and len(attack.rest) > 2000:
            continue  # what is long is so for its length's sake
        fault = judged(recorder, sidecar, attack, TARGETS[where], MANNERS[manner])
        if fault is not None:
            wrong[attack.name] = fault
    assert not wrong, "\n".join(f"{name}: {fault}" for name, fault in wrong.items())
    assert not recorder.broken
    assert SMUGGLED not in {one.target for one in recorder.take()}
