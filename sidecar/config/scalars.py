"""Parsers of single settings: text to a value, or ValueError with a message that says how to write it."""

import re
from collections.abc import Callable
from pathlib import Path

from sidecar.config.address import parse_origin
from sidecar.config.document import nearest

Parse = Callable[[str], object]


def text(text: str) -> str:
    return text.strip()


def optional(text: str) -> str | None:
    return text.strip() or None


def path(text: str) -> Path | None:
    return Path(text.strip()) if text.strip() else None


def names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def origin(text: str) -> str:
    parse_origin(text.strip())
    return text.strip()


def url(text: str) -> str | None:
    word = text.strip()
    if word and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/]+(/\S*)?", word):
        raise ValueError("is not a URL; write it with its scheme, like http://collector:4318")
    return word or None


def proxy(text: str) -> str | None:
    word = text.strip()
    if word and "://" not in word:
        word = f"http://{word}"  # curl and the SDKs take a bare host:port too
    if word and not re.fullmatch(r"https?://[^\s/]+/?", word):
        raise ValueError("is not a proxy URL; write http://host:port")
    return word or None


def choice(*words: str) -> Parse:
    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in words:
            raise ValueError(f"is not one of {', '.join(words)}; {nearest(word, words)}")
        return word

    return parse


def within(parse: Callable[[str], float], low: float, high: float, show: Callable[..., str] = str) -> Parse:
    """A parser that also holds its value inside low..high."""

    def parse_within(text: str) -> object:
        value = parse(text)
        if not low <= value <= high:
            raise ValueError(f"is outside {show(low)}..{show(high)}; choose a value between them")
        return value

    return parse_within
