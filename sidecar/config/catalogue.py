"""Finds and reads the catalogue of models, and compiles its YAML files into the one JSON file that serving reads.

The shipped file lies beside the package where it was installed, in `policies/catalogue` in a checkout, where its sources
are. A file of one's own (the setting `catalogue`) is YAML of the same kind; it is read when a policy is.
"""

from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import orjson

from sidecar.config.build_catalogue import stated
from sidecar.config.document import Problems, read_document
from sidecar.config.files import content_of, fault, is_endless
from sidecar.config.kinds import Wrong
from sidecar.config.written_catalogue import CATALOGUE_FILE, CatalogueFile
from sidecar.core.catalogue import FORMAT, Catalogue, Provider, extended, read_catalogue
from sidecar.errors import ConfigError, UnreadableError

_FILE: Final = "catalogue.json"
_PACKAGE: Final = Path(__file__).resolve().parent.parent
_PLACES: Final = (_PACKAGE / "catalogue" / _FILE, _PACKAGE.parent / "policies" / "catalogue" / _FILE)


def bundled_catalogue() -> Path:
    """The shipped file.

    Raises:
        ConfigError: the installation lacks it.
    """
    for place in _PLACES:
        if place.is_file():
            return place
    raise ConfigError(f"{_PLACES[0]}: the catalogue of models is missing; install the package again")


@cache
def _bundled() -> Catalogue:
    return read_catalogue(bundled_catalogue().read_bytes())


def load_catalogue(file: Path | None = None, text: str | None = None) -> Catalogue:
    """The shipped catalogue, with what `file` says in front of it, or instead of it where that says `replace`.

    With `text` the file is not read: that is what it said.

    Raises:
        ConfigError: the file cannot be read, or is no catalogue; with every problem, one a line.
    """
    if file is None:
        return _bundled()
    own, replaces = _own(file, text_of(file) if text is None else text)
    return own if replaces else extended(_bundled(), own)


def described(name: str) -> str:
    """What the shipped catalogue knows of `provider/model`, as JSON on one line."""
    provider, _, model = name.partition("/")
    return msgspec.json.encode(load_catalogue().lookup(provider, model)).decode()


def read_file(file: Path) -> tuple[Catalogue, bool]:
    """A YAML file of the catalogue, and whether it replaces what is shipped.

    Raises:
        ConfigError: as `load_catalogue`.
    """
    return _own(file, text_of(file))


def text_of(file: Path) -> str:
    """
    Raises:
        ConfigError: the file cannot be read.
    """
    if is_endless(file):
        raise ConfigError(f"{file}: is a pipe or a device; give a readable catalogue")
    try:
        return content_of(file).decode()
    except (OSError, UnicodeDecodeError) as error:
        what = f"{file}: {fault(error)}; give a readable catalogue"
        raise UnreadableError.of(error, what) from None


def _own(file: Path, text: str) -> tuple[Catalogue, bool]:
    problems = Problems(str(file))
    root = read_document(text, problems)
    written: CatalogueFile | None = None
    if root is not None:
        try:
            written = CATALOGUE_FILE.read(root, problems)
        except Wrong:
            pass  # `problems` says why
    problems.check()
    assert written is not None, "no catalogue without a problem told"
    providers = {
        name.lower(): Provider(
            models={model.lower(): stated(can) for model, can in one.models.items()},
            also=_lowered(one.also),
            like=_lowered(one.like),
            strip=_lowered(one.strip),
        )
        for name, one in written.providers.items()
    }
    return Catalogue(providers, written.date), written.replace


def _lowered(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names are compared in lower case."""
    return tuple(name.lower() for name in names)


def compile_catalogue(folder: Path) -> bytes:
    """The JSON text of all `*.yaml` files of a folder: a model a line, so that a change can be read in a diff.

    Raises:
        ConfigError: there is no file, one is wrong, a provider stands in two of them, or `like` names one that is in none.
    """
    providers: dict[str, Provider] = {}
    date = ""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigError(f"{folder}: has no *.yaml file; name the folder of the catalogue's files")
    for file in files:
        one, _ = read_file(file)
        date = max(date, one.date)
        for name, provider in one.providers.items():
            if name in providers:
                raise ConfigError(f"{file}: provider {name!r} stands in another file too; put its models into one")
            providers[name] = provider
    for name, provider in providers.items():
        unknown = [other for other in provider.like if other not in providers]
        if unknown:
            raise ConfigError(
                f"{folder}: providers.{name}.like: {unknown[0]!r} is in no file; write its models, or remove it"
            )
    return _rendered(providers, date)


def _rendered(providers: dict[str, Provider], date: str) -> bytes:
    sections = []
    for name, provider in sorted(providers.items()):
        head = msgspec.json.encode(Provider(also=provider.also, like=provider.like, strip=provider.strip))
        models = [b"%b:%b" % (orjson.dumps(model), msgspec.json.encode(can)) for model, can in provider.models.items()]
        inner = head[:-1] + (b"," if len(head) > 2 else b"") + b'"models":{\n' + b",\n".join(models) + b"\n}}"
        sections.append(orjson.dumps(name) + b":" + inner)
    return b'{"format":%d,"date":%b,"providers":{\n%b\n}}\n' % (FORMAT, orjson.dumps(date), b",\n".join(sections))
