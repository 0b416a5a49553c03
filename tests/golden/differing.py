"""Where two values of JSON differ, as sentences with a path: what the declared differences are held against."""

from typing import Any, Final

ABSENT: Final = object()


def differing(got: Any, own: Any, path: str = "") -> dict[str, str]:
    """Path -> what `got` has there instead of what `own` has; empty where they are the same."""
    if isinstance(got, dict) and isinstance(own, dict):
        found: dict[str, str] = {}
        for name in [*own, *(name for name in got if name not in own)]:
            found |= differing(got.get(name, ABSENT), own.get(name, ABSENT), f"{path}.{name}" if path else name)
        return found
    if isinstance(got, list) and isinstance(own, list) and len(got) == len(own):
        return {
            where: told
            for at, (one, two) in enumerate(zip(got, own, strict=True))
            for where, told in differing(one, two, f"{path}[{at}]").items()
        }
    return {} if got == own and type(got) is type(own) else {path: f"{_shown(got)} instead of {_shown(own)}"}


def _shown(value: Any) -> str:
    return "nothing" if value is ABSENT else repr(value)
