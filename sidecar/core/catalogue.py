"""The catalogue: what is known of a provider's models, found by the model's name.

Theory. It is data with a date (policies/catalogue/*.yaml, compiled to one JSON file), read once. A provider lists models by
name or by the beginning of a name (`gpt-4o-mini*`); the whole name wins over a beginning, a longer beginning over a
shorter one. A name also means its dated versions (`-2024-08-06`, `-20250929`, `@20250929`, `-2411`, `-001`, `-latest`).
Names are compared in lower case. Where a provider serves others' models under longer names, `strip` lists what to take off
in front, and `like` the providers that know them: its own entries say what differs there, theirs the rest.

An upstream whose provider nobody named is asked about as `local`: models with open weights, wherever they run. What is not
listed is unknown, and unknown is taken for able.

What it does not know: what an account may use, what a server was started with (a smaller context is the policy's to state).
"""

import re
from typing import Final

import msgspec

from sidecar.core.abilities import UNKNOWN, Capabilities
from sidecar.errors import ConfigError

FORMAT: Final = 1
LOCAL: Final = "local"
_DEPTH: Final = 4  # of `like` behind `like`: a circle ends here
_VERSION: Final = re.compile(r"[-@](?:20\d\d-?[01]\d-?[0-3]\d|\d{3,4}|latest)(?:-v\d+(?::\d+)?)?$")


class Provider(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One provider of the catalogue, as written."""

    models: dict[str, Capabilities] = {}
    also: tuple[str, ...] = ()  # other names of this provider
    like: tuple[str, ...] = ()  # providers that know the models it serves
    strip: tuple[str, ...] = ()  # what stands before a model's name here


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The compiled file."""

    format: int
    date: str
    providers: dict[str, Provider]


class Catalogue:
    """A catalogue as read. Nothing of it changes. `under` is another one, which is asked what this one does not say."""

    def __init__(self, providers: dict[str, Provider], date: str = "", under: "Catalogue | None" = None) -> None:
        self.date = date
        self.providers = providers
        self._under = under
        self._names = {other: name for name, one in providers.items() for other in one.also}
        self._names |= {name: name for name in providers}  # nobody is called by another's own name
        self._starts = {
            name: sorted((model[:-1] for model in one.models if model.endswith("*")), key=len, reverse=True)
            for name, one in providers.items()
        }

    def lookup(self, provider: str | None, model: str) -> Capabilities:
        """What is known of this model at this provider (None: nobody named it)."""
        return self._find((provider or LOCAL).lower(), model.lower(), 0)

    def _find(self, provider: str, model: str, depth: int) -> Capabilities:
        name = self._names.get(provider)
        if name is None or depth > _DEPTH:
            return UNKNOWN
        one = self.providers[name]
        short = _stripped(model, one.strip)
        found = self._listed(name, model)
        if short != model:
            found = found.over(self._listed(name, short))
        for other in one.like:
            found = found.over(self._find(other, short, depth + 1))
        return found

    def name_of(self, provider: str) -> str:
        """The name under which the models of this provider are listed; a provider that is not known keeps its own."""
        return self._names.get(provider, provider)

    def _listed(self, provider: str, model: str) -> Capabilities:
        found = self._own(provider, model)
        if self._under is None or provider not in self._under.providers:
            return found
        return found.over(self._under._listed(provider, model))

    def _own(self, provider: str, model: str) -> Capabilities:
        models = self.providers[provider].models
        found = models.get(model)
        if found is None:
            found = models.get(_VERSION.sub("", model))
        if found is not None:
            return found
        start = next((start for start in self._starts[provider] if model.startswith(start)), None)
        return UNKNOWN if start is None else models[start + "*"]


EMPTY: Final = Catalogue({})  # nothing is known of any model


def _stripped(model: str, prefixes: tuple[str, ...]) -> str:
    """The name without what stands before it here; each of the prefixes may stand there once."""
    for prefix in prefixes:
        model = model.removeprefix(prefix)
    return model


def read_catalogue(text: bytes) -> Catalogue:
    """The catalogue of a compiled file.

    Raises:
        ConfigError: it is none that this version reads.
    """
    try:
        file = msgspec.json.decode(text, type=File)
    except msgspec.DecodeError as error:
        raise ConfigError(f"catalogue: {error}; run `llm-sidecar catalogue compile`") from None
    if file.format != FORMAT:
        raise ConfigError(f"catalogue: format {file.format} is not {FORMAT}; run `llm-sidecar catalogue compile`")
    return Catalogue(file.providers, file.date)


def extended(base: Catalogue, more: Catalogue) -> Catalogue:
    """`base` with the models of `more` in front of its own: what `more` says of a model wins, the rest stays.

    That holds however the two call the model (a version, the beginning of a name) and its provider.
    """
    own = {base.name_of(name): one for name, one in more.providers.items()}
    providers: dict[str, Provider] = {}
    for name in dict.fromkeys([*base.providers, *own]):
        old, one = base.providers.get(name, Provider()), own.get(name, Provider())
        providers[name] = Provider(
            models=one.models,
            also=(*old.also, *one.also),
            like=(*one.like, *old.like),
            strip=(*one.strip, *old.strip),
        )
    return Catalogue(providers, more.date, base)
