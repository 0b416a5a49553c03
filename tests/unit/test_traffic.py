"""The data plane's parts, wired: what they tell comes where it belongs, and what is wrong with its files is said."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.clock import steady
from sidecar.config.prices import load_prices
from sidecar.config.secrets import KeyRing
from sidecar.config.settings import Settings
from sidecar.core.engine import Engine
from sidecar.core.guard import BreakerStatus
from sidecar.core.policy import NO_POLICY
from sidecar.errors import ConfigError
from sidecar.proxy.aside import ErrandStatus
from sidecar.proxy.origins import Origins
from sidecar.proxy.signals import Signal
from sidecar.tasks import Tasks
from sidecar.traffic import Told, Traffic, notes_of


@dataclass
class Ears:
    """What was told, and by which way."""

    heard: list[tuple[Any, ...]] = field(default_factory=list)

    def of(self, way: str) -> Any:
        return lambda *told: self.heard.append((way, *told))

    def all(self) -> Told:
        return Told(**{name: self.of(name) for name in Told.__slots__})


def made(ears: Ears, *values: str) -> Traffic:
    settings, tasks = Settings.load({}, None, ["service=bot", *values]), Tasks(lambda _name, _error: None)
    engine = Engine(NO_POLICY, np.random.default_rng(1), steady())
    origins = Origins(settings, load_prices(), tasks, KeyRing({}))
    return Traffic(settings, engine, tasks, origins, ears.all())


async def test_what_the_parts_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way leads to its own listener; who graded and who saw is named."""
    ears = Ears()
    traffic = made(ears)
    plane = traffic.plane
    assert plane.on_feedback is not None
    bug, error = ("somewhere", ValueError())
    plane.emit("settled")  # type: ignore[arg-type]  # what it is is not looked at
    plane.on_feedback(b"{}", ears.of("answer"), "shop")
    plane.on_events([])
    plane.on_bug(bug, error)
    plane.on_errand("errand")  # type: ignore[arg-type]  # as above
    plane.on_label("d1", 0.5)
    monkeypatch.setattr(plane.signals, "due", lambda _now: [Signal("d2", "repeat", 0.0)])
    monkeypatch.setattr(traffic.memory, "look", lambda: ears.heard.append(("look",)))
    plane.on_sweep()
    traffic.memory._shed_records(True)
    assert [one if one[0] != "feedback" else one[:2] for one in ears.heard] == [
        ("ended", "settled"),
        ("feedback", b"{}"),
        ("events", []),
        ("bug", bug, error),
        ("errand", "errand"),
        ("label", "d1", "judge", 0.5),
        ("look",),
        ("signal", "d2", "repeat", 0.0),
        ("shed", True),
    ]


async def test_a_fault_that_was_survived_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """And told without its text."""
    traffic = made(Ears())
    traffic.survived("here", ValueError("a request's words"))
    assert traffic.plane.books.bugs == 1
    assert "request's" not in capsys.readouterr().out


async def test_without_cascades_and_judges_nobody_is_asked_where_arms_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = made(Ears())
    monkeypatch.setattr(traffic.plane.engine, "standings", lambda: 1 / 0)
    traffic.judge_by(NO_POLICY)
    traffic.look_around()


async def test_calls_go_where_the_policy_says_and_other_calls_to_the_defaults() -> None:
    traffic = made(Ears(), "openai_upstream=http://127.0.0.1:9")
    traffic.point(NO_POLICY)
    assert traffic.plane.defaults["openai"].spec.port == 9


async def test_a_file_of_tokens(tmp_path: Path) -> None:
    """Without a usable one nothing is wired; one that is spoilt later is said."""
    file = tmp_path / "tokens"
    with pytest.raises(ConfigError):
        made(Ears(), f"client_tokens_file={file}")
    file.write_text(f"{'s' * 32} shop\n")
    traffic = made(Ears(), f"client_tokens_file={file}")
    assert traffic.faults(steady()) == []
    file.write_text("shop short\n")
    (fault,) = traffic.faults(steady() + 60.0)
    assert fault.startswith("client tokens: ")
    traffic.plane.certificate.error = "certificate: gone"
    assert traffic.faults(steady() + 60.0) == [fault, "certificate: gone"]


def test_closed_breakers_are_not_worth_a_note() -> None:
    closed = BreakerStatus("one", "m", "closed", opened=0, left_s=0.0, calls=0, fails=0)
    errand = ErrandStatus("chat", None, 0, None, None, ("the judge rests",))
    opened = replace(closed, state="open")
    assert notes_of([closed, opened], [errand]) == [opened.text(), "the judge rests"]
