"""Finds the bundled price list: beside the package where it was installed, in `policies/prices` in a checkout."""

from pathlib import Path
from typing import Final

from sidecar.core.pricebook import PriceBook
from sidecar.errors import ConfigError

_FILE: Final = "genai-prices.json"
_PACKAGE: Final = Path(__file__).resolve().parent.parent
_PLACES: Final = (_PACKAGE / "prices" / _FILE, _PACKAGE.parent / "policies" / "prices" / _FILE)


def bundled_prices() -> Path:
    """The file of the bundled list.

    Raises:
        ConfigError: the installation lacks it.
    """
    for place in _PLACES:
        if place.is_file():
            return place
    raise ConfigError(
        f"{_PLACES[0]}: the price list is missing; install the package again or run `llm-sidecar prices refresh`"
    )


def load_prices(file: Path | None = None) -> PriceBook:
    """The price list of `file`, else the bundled one.

    Raises:
        ConfigError: it cannot be read or is not a price list.
    """
    place = file or bundled_prices()
    try:
        return PriceBook(place.read_bytes())
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror}; give a readable price list") from None
