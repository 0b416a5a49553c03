"""Finds the price list: the bundled one, or a file that is mounted and read again when it changes.

The bundled one lies beside the package where it was installed, in `policies/prices` in a checkout.
"""

import threading
from pathlib import Path
from typing import Final

from sidecar.clock import wall
from sidecar.config.files import MIB, content_of, is_endless
from sidecar.config.watch import Watch
from sidecar.core.cost import RateCard
from sidecar.core.policy import Upstream
from sidecar.core.pricebook import PriceBook
from sidecar.errors import ConfigError, UnreadableError

_MOST: Final = 16 * MIB  # the bundled one has a fortieth of that
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
    return PriceBook(_text_of(file or bundled_prices()))


def _text_of(file: Path) -> bytes:
    if is_endless(file):
        raise ConfigError(f"{file}: is a pipe or a device; give a readable price list")
    try:
        return content_of(file, _MOST)
    except OSError as error:
        raise UnreadableError.of(error, f"{file}: {error.strerror}; give a readable price list") from None


class PriceSource:
    """The price list in force, and its `text` where it is mounted. `error` says why the file's newest content is not in
    force, None when it is."""

    def __init__(self, file: Path | None, text: bytes | None = None) -> None:
        """With `text`, the mounted list that another process has in force, the file is read when it is asked for changes.

        Raises:
            ConfigError: as `load_prices`: at start there is no last good list.
        """
        self._file = file
        self._turn = threading.Lock()  # of a reading: the one that began last is the last to be taken
        self._watch = Watch([] if file is None else [file])  # the bundled one changes with the package
        if text is not None:
            self._watch.forget()
        self._take(self._read() if text is None else text)
        self.error: str | None = None

    def card(self, upstream: Upstream, model: str) -> RateCard | None:
        """What `model` costs at an upstream today, by the policy or by the list in force; None when nobody says."""
        return self.current.card(upstream, model, int(wall() // 86400))

    def changed(self) -> bool:
        """Whether the file is another than at the last call."""
        return self._watch.changed()

    def reload(self) -> bool:
        """Reads the file, in some 20 ms: not for the loop. Whether there is a new list; a bad one changes nothing."""
        with self._turn:
            try:
                self._take(self._read())
            except ConfigError as error:
                self.error = f"{error}; the last good price list stays in force"
                if isinstance(error, UnreadableError):
                    self._watch.forget()
                return False
            self.error = None
            return True

    def notes(self) -> list[str]:
        """What people should know of it, for `/ready`."""
        return [] if self.error is None else [f"prices: {self.error}"]

    def _read(self) -> bytes | None:
        return None if self._file is None else _text_of(self._file)

    def _take(self, text: bytes | None) -> None:
        self.current = load_prices() if text is None else PriceBook(text)
        self.text = text
