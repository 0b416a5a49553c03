"""`prices refresh`: the installed price data become the file that serving reads; the committed file is current."""

import json
import socket
import sys
from datetime import date, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from genai_prices import types, update_prices
from genai_prices.data import providers

from sidecar.control import prices
from sidecar.control.prices import compile_prices, render
from sidecar.core.pricebook import PriceBook
from sidecar.errors import ConfigError

COMMITTED = Path(__file__).resolve().parents[3] / "policies/prices/genai-prices.json"
TODAY = date(2026, 11, 21)


def test_it_compiles_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GW-17: no socket is opened; the file names source, version and date, and is what the repository has."""

    def refuse(*_: object) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    target = tmp_path / "new" / "prices.json"
    book = compile_prices(target, TODAY)
    assert (book.source, book.date) == ("genai-prices", "2026-11-21")
    assert PriceBook(target.read_bytes()).version == book.version
    fresh, committed = json.loads(target.read_bytes()), json.loads(COMMITTED.read_bytes())
    if fresh["version"] == committed["version"]:
        assert fresh["providers"] == committed["providers"]
    assert list(target.parent.iterdir()) == [target]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The error names the path."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=str(tmp_path)):
        compile_prices(tmp_path / "file" / "prices.json", TODAY)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """genai-prices is an extra."""
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)
    with pytest.raises(ConfigError, match=r"llm-sidecar\[prices\]"):
        compile_prices(tmp_path / "p.json", TODAY)


@pytest.mark.parametrize("answer", ["snapshot", "nothing", "error"])
def test_fetching_is_asked_for_explicitly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Only with `fetch`; a source that answers nothing or fails is an error that says what works without it."""

    def fetch(_: object) -> object:
        if answer == "error":
            raise OSError("no route")
        return SimpleNamespace(providers=providers[:2]) if answer == "snapshot" else None

    monkeypatch.setattr(update_prices.UpdatePrices, "fetch", fetch)
    if answer == "snapshot":
        book = compile_prices(tmp_path / "p.json", TODAY, fetch=True)
        assert book.version.endswith("+2026-11-21")
        assert len(book.providers) == 2
    else:
        with pytest.raises(ConfigError, match="without --fetch"):
            compile_prices(tmp_path / "p.json", TODAY, fetch=True)


def model(**changes: object) -> types.ModelInfo:
    values: dict[str, object] = {"id": "m", "match": types.ClauseEquals(equals="m")}
    return types.ModelInfo(**(values | changes))  # type: ignore[arg-type] # one builder for many shapes


def rendered(*models: types.ModelInfo) -> list[list[object]]:
    provider = types.Provider(id="p", name="P", api_pattern="x", models=list(models))
    entry: list[list[object]] = json.loads(render([provider], version="v", today=TODAY))["providers"]["p"]["models"]
    return entry


def test_what_usage_does_not_count_makes_a_model_partial() -> None:
    """Pages are left out and the model is marked; a model priced by nothing that we count is left out itself."""
    pages = Decimal(8)
    some = types.ModelPrice(input_mtok=Decimal("0.15"), input_document_kpages=pages, requests_kcount=Decimal(5))
    entries = rendered(model(prices=some), model(prices=types.ModelPrice(input_document_kpages=pages)))
    assert entries == [
        ["m", ["equals", "m"], [[None, {"in": 150_000_000, "request": 5_000_000_000_000}]], [], True],
    ]


def test_media_and_sound() -> None:
    """Pictures and films are tokens; sound that is heard is paid by its length, and talk by the hour is not counted."""
    media = types.ModelPrice(input_image_mtok=Decimal(8), output_video_mtok=Decimal(2))
    heard = types.ModelPrice(audio_hours=Decimal("0.36"), input_audio_hours=Decimal("0.36"))
    talk = types.ModelPrice(input_mtok=Decimal(1), audio_hours=Decimal(3))
    assert [entry[2:] for entry in rendered(model(prices=media), model(prices=heard), model(prices=talk))] == [
        [[[None, {"image_in": 8 * 10**9, "video_out": 2 * 10**9}]], [], False],
        [[[None, {"audio_s": 10**11}]], [], False],
        [[[None, {"in": 10**9}]], [], True],
    ]


def test_conditions_and_tiers() -> None:
    """Days, hours (in UTC), sizes and tiers are carried over; contexts that no response reports are not."""
    price = types.ModelPrice(input_mtok=Decimal(1), web_searches_kcount=None)
    zone = timezone(timedelta(hours=2))
    entry = rendered(
        model(
            prices=[
                types.ConditionalPrice(prices=price),
                types.ConditionalPrice(types.StartDateConstraint(date(2026, 1, 2)), prices=price),
                types.ConditionalPrice(types.TimeOfDateConstraint(time(1, 30), time(1, tzinfo=zone)), prices=price),
            ],
            price_variants=[
                types.PriceVariant({"service_tier": "flex"}, price),
                types.PriceVariant({"route": "eu"}, price),
                types.PriceVariant({"service_tier": "x", "speed": "y"}, price),
                types.PriceVariant({"service_tier": "default"}, types.ModelPrice()),
            ],
        )
    )[0]
    assert entry[2:] == [
        [[None, {"in": 10**9}], ["2026-01-02", {"in": 10**9}], [[5400, 82_800], {"in": 10**9}]],
        [["flex", None, {"in": 10**9}]],
        False,
    ]


def test_sources_of_prices_are_the_units_that_we_know() -> None:
    """Each bucket's unit is stated once and is exact."""
    assert prices.FEMTO_PER_MTOK * 10**6 == 10**15
    assert prices.FEMTO_PER_KCOUNT * 10**3 == 10**15
    assert round(prices.FEMTO_PER_HOUR * 3600) == 10**15
