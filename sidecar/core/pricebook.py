"""The price list: which rate card applies to a provider's model on a day.

Theory. The list is data with a source, a version and a date (policies/prices/*.json, written by `prices refresh`); this
module never fetches anything, so every worker with the same file computes the same cost and being offline changes
nothing. A provider lists its models in order and each model says by a clause (equals, starts, ends, contains, regex,
or, and) which names mean it; the first that matches serves, then the providers that this one names as fallbacks, then
the same again with a compact date (`-20251211`) written with dashes. Prices carry the day from which they hold or the
hours of the day in which they hold; the last one that holds wins, and where none does the first.

An unknown provider or model is None, which callers must keep apart from a price of zero. Matching costs tens of
microseconds and is therefore remembered; the memory is bounded, because names come from requests.

File: {"format": 1, "source", "version", "date", "providers": {id: {"match": clause|null, "fallback": [id], "models":
[[label, clause, [[when, prices]], [[tier, from_day, prices]], partial]]}}}; a clause is [word, text | [clauses]],
`when` is null, "YYYY-MM-DD" or [from_s, to_s], prices are {bucket: femto-dollars per token | [base, [start, rate]...]};
the bucket `audio_s` is per second of sound.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import TypeAlias

import msgspec

from sidecar.core.cost import RateCard, Rates, Sizes, flat_card
from sidecar.core.policy import Upstream
from sidecar.errors import ConfigError
from sidecar.secrecy import MAX_NAME

FORMAT = 1
OTHER_NAMES = {"azure-deployments": "azure"}  # of ours, for providers whose prices are another name's
CACHE_LIMIT = 1024  # (provider, model, day) remembered; beyond it the memory starts anew: names come from requests
EPOCH = date(1970, 1, 1).toordinal()

Test: TypeAlias = Callable[[str], bool]
Rate: TypeAlias = int | list[int | list[int]]
PriceMap: TypeAlias = dict[str, Rate]
When: TypeAlias = str | tuple[int, int] | None
_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


class ModelEntry(msgspec.Struct, array_like=True, frozen=True):
    """One model of the file, as written."""

    label: str
    match: list[object]
    prices: list[tuple[When, PriceMap]]
    tiers: list[tuple[str, str | None, PriceMap]] = []
    partial: bool = False


class ProviderEntry(msgspec.Struct, frozen=True):
    """One provider of the file; its models stay undecoded until somebody asks for them."""

    models: msgspec.Raw
    match: list[object] | None = None
    fallback: list[str] = []


class _File(msgspec.Struct, frozen=True):
    format: int
    source: str
    version: str
    date: str
    providers: dict[str, ProviderEntry]


class PriceBook:
    """A parsed price list. Reading it changes nothing that a caller can see; `lookup` remembers its answers."""

    def __init__(self, text: bytes) -> None:
        """`text` is the file's content. Raises ConfigError when it is not a price list that this version reads."""
        self._models: dict[str, list[tuple[Test, ModelEntry]]] = {}
        self._cards: dict[tuple[str | None, str | None, int], RateCard | None] = {}
        try:
            file = msgspec.json.decode(text, type=_File)
            _check_format(file.format)
            self._providers = file.providers
            for provider, entry in file.providers.items():
                self._check(provider, entry)
        except (msgspec.DecodeError, UnicodeDecodeError, ConfigError, re.error) as error:
            raise ConfigError(f"price list: {error}; run `llm-sidecar prices refresh` to write it anew") from error
        self.version = file.version
        self.source = file.source
        self.date = file.date

    def _check(self, provider: str, entry: ProviderEntry) -> None:
        """Everything is decoded once and thrown away, so that `lookup` cannot meet an error: memory stays small."""
        if entry.match is not None:
            compile_clause(entry.match)
        for name in entry.fallback:
            if name not in self._providers:
                raise ConfigError(f"providers.{provider}.fallback: {name!r} is not in the list")
        for _, model in self._compile(provider):
            if not model.prices:
                raise ConfigError(f"providers.{provider}: {model.label!r} has no price")

    @property
    def providers(self) -> tuple[str, ...]:
        """The provider names that the list knows, in its order."""
        return tuple(self._providers)

    def card(self, upstream: Upstream, model: str, day: int) -> RateCard | None:
        """What `model` costs at an upstream: the price that the policy states, else what the list says; `day` as below."""
        if upstream.price is not None:
            return flat_card(upstream.price)
        return self.lookup(upstream.provider, model, day)

    def lookup(self, provider: str | None, model: str | None, day: int) -> RateCard | None:
        """The card of `model` at `provider` on `day` (whole days since 1970-01-01, UTC); None when not listed."""
        key = (provider, model, day)
        try:
            return self._cards[key]
        except KeyError:
            pass
        if model is not None and len(model) > MAX_NAME:  # whoever writes that must not be remembered for it
            return None
        card = self._find(provider, model, day) if provider and model else None
        if len(self._cards) >= CACHE_LIMIT:
            self._cards.clear()
        self._cards[key] = card
        return card

    def _find(self, provider: str, model: str, day: int) -> RateCard | None:
        asked = provider.strip().lower()
        name = self._provider(OTHER_NAMES.get(asked, asked))
        if name is None:
            return None
        entry = self._model(name, model.lower())
        if entry is None:
            return None
        return build_card(entry, day, self.version)

    def _provider(self, name: str) -> str | None:
        if name in self._providers:
            return name
        for own, entry in self._providers.items():
            if entry.match is not None and compile_clause(entry.match)(name):
                return own
        return None

    def _model(self, provider: str, model: str) -> ModelEntry | None:
        dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", model)
        for name in (model,) if dashed == model else (model, dashed):
            for place in (provider, *self._providers[provider].fallback):
                for matches, entry in self._compiled(place):
                    if matches(name):
                        return entry
        return None

    def _compiled(self, provider: str) -> list[tuple[Test, ModelEntry]]:
        known = self._models.get(provider)
        if known is None:
            known = self._models[provider] = self._compile(provider)
        return known

    def _compile(self, provider: str) -> list[tuple[Test, ModelEntry]]:
        models = msgspec.json.decode(self._providers[provider].models, type=list[ModelEntry])
        return [(compile_clause(model.match), model) for model in models]


def _check_format(found: int) -> None:
    if found != FORMAT:
        raise ConfigError(f"format {found}, this version reads {FORMAT}")


def compile_clause(clause: Sequence[object]) -> Test:
    """The predicate over a lower-case name that this clause stands for. Raises ConfigError for an unknown word."""
    word, value = clause
    if word in {"or", "and"} and isinstance(value, list):
        return _combine(str(word), [compile_clause(part) for part in value])
    text = str(value)
    if word == "regex":
        pattern = re.compile(text)
        return lambda name: pattern.search(name) is not None
    text = text.lower()
    match word:
        case "equals":
            return text.__eq__
        case "starts":
            return lambda name: name.startswith(text)
        case "ends":
            return lambda name: name.endswith(text)
        case "contains":
            return lambda name: text in name
    raise ConfigError(f"unknown clause {word!r}")


def _combine(word: str, tests: list[Test]) -> Test:
    if word == "or":
        return lambda name: any(test(name) for test in tests)
    return lambda name: all(test(name) for test in tests)


def build_card(entry: ModelEntry, day: int, version: str) -> RateCard:
    """The card of one model on one day: the standard prices that hold, their peaks, and the tiers on top of each."""
    today = date.fromordinal(EPOCH + day).isoformat()
    standard = entry.prices[0][1]
    peaks: list[tuple[int, int, PriceMap]] = []
    for when, prices in reversed(entry.prices):
        if isinstance(when, tuple):
            peaks.append((when[0], when[1], prices))
        elif when is None or when <= today:
            standard = prices
            break
    tiers = _active_tiers(entry, today)
    above = tuple((start, end, _card(entry, prices, tiers, version)) for start, end, prices in peaks)
    return _card(entry, standard, tiers, version, above)


def _active_tiers(entry: ModelEntry, today: str) -> dict[str, PriceMap]:
    """The rates that each service tier replaces today; of several entries the first one wins, rate by rate."""
    tiers: dict[str, PriceMap] = {}
    for name, since, prices in entry.tiers:
        if since is None or since <= today:
            tiers[name] = prices | tiers.get(name, {})
    return tiers


def _card(
    entry: ModelEntry,
    prices: PriceMap,
    tiers: Mapping[str, PriceMap],
    version: str,
    peaks: tuple[tuple[int, int, RateCard], ...] = (),
) -> RateCard:
    return RateCard(
        version=version,
        sizes=_sizes(prices),
        tiers={name: _sizes(prices | own) for name, own in tiers.items()},
        peaks=peaks,
        partial=entry.partial,
        label=entry.label,
    )


def _sizes(prices: PriceMap) -> Sizes:
    """The rates at every size at which any bucket changes its rate, largest first."""
    starts = {-1}
    for rate in prices.values():
        if isinstance(rate, list):
            starts.update(step[0] for step in _steps(rate))
    return tuple((start, _rates({k: _rate_at(v, start) for k, v in prices.items()})) for start in sorted(starts)[::-1])


def _steps(rate: list[int | list[int]]) -> Iterable[list[int]]:
    return (step for step in rate[1:] if isinstance(step, list))


def _rate_at(rate: Rate, start: int) -> int:
    """The rate of an input that is just larger than `start`."""
    if isinstance(rate, int):
        return rate
    base = rate[0]
    assert isinstance(base, int), "a tiered rate begins with its base rate"
    for since, value in _steps(rate):
        if start >= since:
            base = value
    return base


def _rates(prices: Mapping[str, int]) -> Rates:
    """One size's rates; a bucket without a rate of its own costs what its parent costs."""
    plain = prices.get("in", 0)
    out = prices.get("out", 0)
    cached = prices.get("cached", plain)
    write = prices.get("write", plain)
    audio = prices.get("audio_in", plain)
    return Rates(
        input=plain,
        cached=cached,
        write=write,
        write_1h=prices.get("write_1h", write),
        output=out,
        reasoning=prices.get("reason", out),
        audio_in=audio,
        audio_cached=prices.get("audio_cached", audio if "audio_in" in prices else cached),
        audio_out=prices.get("audio_out", out),
        request=prices.get("request", 0),
        image_in=prices.get("image_in"),
        image_cached=prices.get("image_cached", prices.get("image_in") if "cached" not in prices else None),
        image_out=prices.get("image_out"),
        video_in=prices.get("video_in"),
        video_out=prices.get("video_out"),
        audio_second=prices.get("audio_s", 0),
    )
