"""The price list: which card a name gets on a day, exactly as the source itself would answer."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import genai_prices
import pytest
from genai_prices.data import providers

from sidecar.core.cost import cost, flat_card
from sidecar.core.policy import FlatPrice, Upstream
from sidecar.core.pricebook import CACHE_LIMIT, ModelEntry, PriceBook, build_card, compile_clause
from sidecar.core.types import Usage
from sidecar.errors import ConfigError
from sidecar.secrecy import MAX_NAME
from sidecar.wire.providers import PROVIDERS

FILE = Path(__file__).resolve().parents[3] / "policies/prices/genai-prices.json"
DAY = (date(2026, 11, 21) - date(1970, 1, 1)).days


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook(FILE.read_bytes())


def small(**changes: object) -> bytes:
    provider = {"match": ["contains", "acme"], "fallback": [], "models": [["m", ["equals", "m"], [[None, {"in": 7}]]]]}
    return json.dumps(
        {"format": 1, "source": "s", "version": "v", "date": "2026-11-21", "providers": {"acme": provider | changes}}
    ).encode()


def test_the_list_in_the_repository_is_small_and_states_its_origin(book: PriceBook) -> None:
    """GW-17: prices are bundled, with source, version and date; nothing is fetched."""
    assert book.source == "genai-prices"
    assert book.version.startswith("genai-prices-")
    assert date.fromisoformat(book.date) <= date(2027, 12, 31)
    assert FILE.stat().st_size <= 600_000
    assert {"openai", "anthropic", "google"} <= set(book.providers)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google", "mistral", "deepseek", "x-ai", "perplexity"])
def test_every_model_costs_what_the_source_says(book: PriceBook, provider: str) -> None:
    """For each model, by its own id, at noon of three days: our total is genai-prices' total, rounded once."""
    checked = 0
    usage = Usage(input_tokens=300_000, output_tokens=2000, cached_input_tokens=1000)
    for model in next(one for one in providers if one.id == provider).models:
        for back in (0, 60, 700):
            moment = datetime(2026, 11, 21, 12, tzinfo=UTC) - timedelta(days=back)
            card = book.lookup(provider, model.id, DAY - back)
            if card is None:
                continue
            theirs = genai_prices.calc_price(
                genai_prices.Usage(input_tokens=300_000, output_tokens=2000, cache_read_tokens=1000),
                model.id,
                provider_id=provider,
                genai_request_timestamp=moment,
            )
            rates = card.sizes[-1][1]
            if rates.audio_second and not rates.input:  # paid by the length of the sound: no tokens, no cost
                assert cost(usage, card) is None
                continue
            ours = cost(usage, card, second_of_day=43_200)
            assert ours is not None
            assert abs(ours.total_nusd - theirs.total_price * 10**9) <= 0.5, (model.id, back)
            checked += 1
    assert checked >= 15


@pytest.mark.parametrize(
    ("provider", "name", "label"),
    [
        ("openai", "GPT-4o-2024-11-20", "gpt-4o"),
        ("azure", "gpt-4o", "gpt-4o"),
        ("google", "claude-haiku-4-5", "claude-haiku-4-5"),
        ("google", "gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("my-anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("openai", "gpt-4o-20241120", "gpt-4o"),
    ],
)
def test_names_match_as_the_source_matches(book: PriceBook, provider: str, name: str, label: str) -> None:
    """Dated names, other spellings, fallback providers and compact dates find the model that they mean."""
    card = book.lookup(provider, name, DAY)
    assert card is not None
    assert card.label == label


def test_a_price_holds_from_its_day() -> None:
    """The newest price whose day has come wins; before the first day the first one is used."""
    entry = ModelEntry(
        "m",
        ["equals", "m"],
        [("2026-01-01", {"in": 1}), ("2026-06-01", {"in": 2}), ((0, 3600), {"in": 3})],
        [("flex", "2026-06-01", {"in": 9}), ("flex", None, {"in": 8, "out": 4})],
    )

    def at(day: date) -> tuple[int, int, int, int]:
        card = build_card(entry, (day - date(1970, 1, 1)).days, "v")
        flex = card.tiers["flex"][0][1]
        return card.sizes[0][1].input, card.at(1800).sizes[0][1].input, flex.input, flex.output

    assert at(date(2025, 1, 1)) == (1, 3, 8, 4)
    assert at(date(2026, 1, 1)) == (1, 3, 8, 4)
    assert at(date(2026, 6, 1)) == (2, 3, 9, 4)


def test_tiers_of_size_that_start_differently_are_merged() -> None:
    """Each bucket changes at its own size; between them every size has its own rates."""
    entry = ModelEntry("m", ["equals", "m"], [(None, {"in": [1, [100, 2], [200, 3]], "out": [10, [200, 20]]})])
    sizes = build_card(entry, DAY, "v").sizes
    assert [(start, rates.input, rates.output) for start, rates in sizes] == [(200, 3, 20), (100, 2, 10), (-1, 1, 10)]


def test_audio_without_its_own_cached_rate_costs_as_audio() -> None:
    """GW-16: where audio is priced apart, cached audio is never billed as cheap cached text."""
    entry = ModelEntry("m", ["equals", "m"], [(None, {"in": 10, "cached": 1, "audio_in": 100})])
    assert build_card(entry, DAY, "v").sizes[0][1].audio_cached == 100


@pytest.mark.parametrize(
    ("clause", "yes", "no"),
    [
        (["equals", "A-b"], "a-b", "a-bc"),
        (["starts", "gpt"], "gpt-4", "a-gpt"),
        (["ends", "mini"], "gpt-mini", "mini-gpt"),
        (["contains", "4o"], "gpt-4o-x", "gpt-4"),
        (["regex", "^o[13]$"], "o1", "o2"),
        (["or", [["equals", "a"], ["equals", "b"]]], "b", "c"),
        (["and", [["starts", "a"], ["ends", "b"]]], "axb", "ax"),
    ],
)
def test_clauses(clause: list[object], yes: str, no: str) -> None:
    """Each word of the matching language means what the source means by it."""
    matches = compile_clause(clause)
    assert matches(yes)
    assert not matches(no)


def test_answers_are_remembered_and_the_memory_is_bounded() -> None:
    """The same question gives the same object; thousands of invented names do not grow the memory."""
    book = PriceBook(small())
    assert book.lookup("acme", "m", DAY) is book.lookup("acme", "m", DAY)
    for number in range(CACHE_LIMIT * 2):
        assert book.lookup("acme", f"invented-{number}", DAY) is None
    assert len(book._cards) <= CACHE_LIMIT
    before = len(book._cards)
    assert book.lookup("acme", "m" * (MAX_NAME + 1), DAY) is None
    assert len(book._cards) == before
    assert book.lookup(" ACME-west", "M", DAY) is not None
    assert book.lookup("acme", "", DAY) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "price list: Input data was truncated"),
        (small().replace(b'"format": 1', b'"format": 9'), "format 9, this version reads 1"),
        (small(fallback=["nobody"]), "providers.acme.fallback: 'nobody' is not in the list"),
        (small(models=[["m", ["equals", "m"], []]]), "'m' has no price"),
        (small(models=[["m", ["sounds-like", "m"], [[None, {}]]]]), "unknown clause 'sounds-like'"),
        (small(match=["regex", "("]), "price list: "),
        (small(models=3), "price list: "),
        (small().replace(b'"acme"', b'"ac\xffme"'), "utf-8"),
    ],
)
def test_a_bad_list_is_refused_when_it_is_read(text: bytes, says: str) -> None:
    """Errors show at start and say how to fix it; a lookup never raises."""
    with pytest.raises(ConfigError, match="prices refresh") as caught:
        PriceBook(text)
    assert says in str(caught.value)


def test_a_provider_without_a_matching_rule_is_found_by_its_name_only() -> None:
    """No rule means exact names."""
    book = PriceBook(small(match=None))
    assert book.lookup("acme", "m", DAY) is not None
    assert book.lookup("acme-west", "m", DAY) is None


def test_every_provider_that_we_name_is_in_the_list_or_of_ones_own(book: PriceBook) -> None:
    """Names of ours lead to the list's: a deployment at Azure costs what Azure's model costs."""
    day = (date(2026, 11, 21) - date(1970, 1, 1)).days
    asked = {
        "azure": "gpt-4o", "azure-deployments": "gpt-4o", "bedrock": "amazon.nova-pro-v1:0", "vertex": "gemini-2.5-pro",
        "google": "gemini-2.5-pro", "openai": "gpt-4o", "anthropic": "claude-opus-4-8", "groq": "openai/gpt-oss-120b",
        "mistral": "mistral-embed", "deepseek": "deepseek-chat", "cohere": "command-a-03-2025",
        "openrouter": "openai/gpt-4o", "together": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    }  # fmt: skip
    assert PROVIDERS.keys() - asked.keys() == {"vllm", "llama.cpp", "ollama"}  # the policy says what these cost
    for provider, model in asked.items():
        assert book.lookup(provider, model, day) is not None, provider
    one, other = (book.lookup(name, "gpt-4o", day) for name in ("azure", "azure-deployments"))
    assert one == other


def test_the_policys_price_goes_before_the_list() -> None:
    """Of an upstream without one the list is asked, by its provider."""
    listed = Upstream("a", "openai", "https", "h", 443, provider="acme")
    stated = Upstream("a", "openai", "https", "h", 443, provider="acme", price=FlatPrice(3, 4))
    own = PriceBook(small())
    assert own.card(listed, "m", DAY) == own.lookup("acme", "m", DAY)
    assert own.card(stated, "m", DAY) == flat_card(FlatPrice(3, 4))
