"""Which formats are loaded before a call needs them: a translation must not begin with ten milliseconds of reading code."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidecar.proxy import translated
from sidecar.proxy.origin import Origin
from sidecar.wire.providers import PROVIDERS
from sidecar.wire.spokes import SPOKES


def upstreams(*names: str) -> dict[str, Origin]:
    return {name: cast("Origin", SimpleNamespace(provider=PROVIDERS[name])) for name in names}


@pytest.mark.parametrize(
    ("names", "loaded"),
    [
        (["openai"], set()),
        (["openai", "azure", "vllm"], set()),
        (["anthropic"], {"chat", "messages"}),
        (["openai", "anthropic"], {"chat", "messages", "responses"}),
        (["google"], {"chat", "generate"}),
        (["cohere"], {"chat", "cohere"}),
        (["openai", "bedrock"], {"chat", "converse", "responses"}),
    ],
)
def test_what_a_policy_translates_is_loaded_with_it(
    names: list[str], loaded: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh: Any = type(SPOKES)()
    monkeypatch.setattr(translated, "SPOKES", fresh)
    found = translated.foreign(upstreams(*names))
    assert set(fresh._loaded) == loaded
    assert set(found["chat"]) == {name for name in names if "chat" not in PROVIDERS[name].paths}


def test_there_are_six_formats_and_no_others() -> None:
    fresh = type(SPOKES)()
    assert len(fresh) == len(set(fresh)) == 6
    assert all(fresh[form].format == form for form in fresh)
    with pytest.raises(KeyError):
        fresh["morse"]  # type: ignore[index] # that is the point
