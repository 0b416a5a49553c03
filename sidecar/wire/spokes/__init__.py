"""One package for each format: how it is read into the neutral form and written from it.

A format is loaded when it is first asked for: most services speak one and translate nothing, and all six are 2 MiB of code.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Final, get_args

from sidecar.wire.neutral import Format
from sidecar.wire.spoke import Spoke

_FORMATS: Final[tuple[Format, ...]] = get_args(Format)


class _Spokes(Mapping[Format, Spoke]):
    def __init__(self) -> None:
        self._loaded: dict[Format, Spoke] = {}

    def __getitem__(self, form: Format) -> Spoke:
        found = self._loaded.get(form)
        if found is None:
            if form not in _FORMATS:
                raise KeyError(form)
            found = self._loaded[form] = import_module(f"{__name__}.{form}.spoke").SPOKE
        return found

    def load(self, forms: Iterable[Format]) -> None:
        """Loads these now."""
        for form in forms:
            self[form]

    def __iter__(self) -> Iterator[Format]:
        return iter(_FORMATS)

    def __len__(self) -> int:
        return len(_FORMATS)


SPOKES: Final = _Spokes()
