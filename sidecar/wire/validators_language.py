"""Which language a text is in, and whether it opens like a refusal: small, deterministic, and honest about "unknown".

A script that one language uses decides by itself (kana, Hangul, Hebrew, Greek, Thai); Han without kana is Chinese.
Cyrillic is Ukrainian or Russian by the letters that only one of them has. In Latin letters stop words are counted: the
language needs MIN_HITS of them and LEAD times as many as the next one. Code blocks, addresses and JSON say nothing.
What it does not know: languages that are not listed (Danish may pass for Norwegian's neighbour Swedish and is then
mostly unknown), mixed texts, texts of a few words.

A refusal's opening is a weak sign (a model may say "I'm sorry" and go on to help), so it halves the quality and does
not take it all; the structured signs of `refusal` do.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

LANGUAGES: Final = (
    "ar", "de", "el", "en", "es", "fr", "he", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "tr", "uk",
    "zh",
)  # fmt: skip
REFUSAL_QUALITY: Final = 0.5  # 0..1; what an answer is worth at most that opens like a refusal; 0 would trust the words
SAMPLE_CHARS: Final = 4_000  # of a text that are looked at
MIN_LETTERS: Final = 12  # of the script that decides; shorter texts are names and numbers
MIN_HITS: Final = 3  # stop words
LEAD: Final = 1.5  # times as many as the next language has; 1 guesses, 2 leaves Spanish and Portuguese unknown
_SHARE: Final = 0.5  # of all letters that the deciding script has

_SKIPPED: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{0,200}`|https?://\S{1,500}", re.DOTALL)
_WORD: Final = re.compile(r"[^\W\d_]+")
# First and last letter of each script; marks and signs between them count as its letters.
_RANGES: Final = (
    ("latin", "A", "Z"), ("latin", "a", "z"), ("latin", "\u00c0", "\u024f"), ("latin", "\u1e00", "\u1eff"),
    ("el", "\u0370", "\u03ff"), ("cyrillic", "\u0400", "\u04ff"), ("he", "\u0590", "\u05ff"), ("ar", "\u0600", "\u06ff"),
    ("hi", "\u0900", "\u097f"), ("th", "\u0e00", "\u0e7f"), ("ja", "\u3040", "\u30ff"), ("han", "\u3400", "\u9fff"),
    ("ko", "\uac00", "\ud7af"),
)  # fmt: skip
_UKRAINIAN, _RUSSIAN = re.compile("[іїєґ]"), re.compile("[ыэёъ]")
_PERSIAN: Final = re.compile("[پچژگ]")  # letters that Arabic does not have
_STOP_WORDS: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(words.split())
    for name, words in {
        "en": "the and of to is in that it you for with are this be have not on was can as but from they which your",
        "de": "der die das und ist nicht ein eine zu den mit von sie auf für dem sich auch es als wird ich werden kann",
        "fr": "le la les et des est une dans que pour pas qui sur vous avec ce plus sont par cette il nous mais être",
        "es": "el la los las y que es una para con por no del se su como más pero este está son lo puede también",
        "it": "il di che è la per un una non con sono del della gli si come più anche questo nel alla essere ha può",
        "pt": "o que não uma para com os do da em as se por mais é como mas são você dos ao pelo também isso está",
        "nl": "de het een en van is niet dat op te zijn voor met je die er aan ook maar worden bij kan als deze",
        "pl": "i w nie na jest się z do to że jak o co ale po są być dla tego może który przez czy można lub",
        "sv": "och att det är som en på inte för av med den ett till kan om har du eller från så de vi ska",
        "tr": "ve bir bu için ile da de çok olarak daha gibi ne var olan kadar en sonra ama veya değil her ise şu",
    }.items()
}
_LANGUAGES_OF: Final[Mapping[str, list[str]]] = {
    word: [name for name, known in _STOP_WORDS.items() if word in known]
    for word in frozenset().union(*_STOP_WORDS.values())
}

# How refusals begin, in lower case with plain apostrophes; the few that people and models write most.
_OPENINGS: Final = (
    "i'm sorry, but i can", "i'm sorry, but i'm not able", "i'm sorry, i can", "i am sorry, but i can", "sorry, but i can't",
    "sorry, i can't", "i apologize, but i can", "i can't assist", "i cannot assist", "i can't help with",
    "i cannot help with", "i'm unable to", "i am unable to", "i'm not able to", "i won't be able to help",
    "as an ai language model, i can", "as an ai, i can",
    "es tut mir leid, aber ich kann", "tut mir leid, aber ich kann", "ich kann dabei nicht helfen",
    "je suis désolé, mais je ne", "désolé, mais je ne", "je ne peux pas vous aider",
    "lo siento, pero no puedo", "lo siento, no puedo", "no puedo ayudar",
    "mi dispiace, ma non posso", "non posso aiutarti",
    "desculpe, mas não posso", "sinto muito, mas não posso", "não posso ajudar",
    "het spijt me, maar ik kan", "sorry, maar ik kan",
    "przykro mi, ale nie mogę", "niestety nie mogę pomóc",
    "извините, но я не могу", "к сожалению, я не могу", "申し訳ありませんが", "申し訳ございませんが",
    "抱歉，我无法", "抱歉，我不能", "很抱歉，我无法", "对不起，我无法", "죄송하지만",
)  # fmt: skip


def language_of(text: str) -> str | None:
    """The language's two letters, one of LANGUAGES; None where that is not clear."""
    sample = _SKIPPED.sub(" ", text[:SAMPLE_CHARS]).strip().lower()
    if sample[:1] in ("{", "["):
        return None
    letters = _letters(sample)
    total = sum(letters.values())
    if letters["ja"] and letters["ja"] + letters["han"] > _SHARE * total:
        letters["ja"] += letters.pop("han")
    script = max(letters, key=letters.__getitem__)
    if letters[script] < MIN_LETTERS / (2 if script in ("han", "ja", "ko") else 1) or letters[script] <= _SHARE * total:
        return None
    if script == "latin":
        return _by_words(sample)
    if script == "cyrillic":
        return _cyrillic(sample)
    if script == "ar":
        return None if _PERSIAN.search(sample) else "ar"
    return "zh" if script == "han" else script


def opens_like_refusal(text: str) -> bool:
    """Whether the text begins as refusals do, in one of ten languages."""
    begin = text[:200].lstrip(" \t\r\n*_\"'>#-").replace("\u2019", "'").lower()
    return begin.startswith(_OPENINGS)


def _letters(sample: str) -> dict[str, int]:
    """How many letters each script has."""
    found = dict.fromkeys((script for script, _, _ in _RANGES), 0)
    for char, count in Counter(sample).items():
        for script, first, last in _RANGES:
            if first <= char <= last:
                found[script] += count
                break
    return found


def _by_words(sample: str) -> str | None:
    hits = dict.fromkeys(_STOP_WORDS, 0)
    for word, count in Counter(_WORD.findall(sample)).items():
        for name in _LANGUAGES_OF.get(word, ()):
            hits[name] += count
    second, most = sorted(hits.values())[-2:]
    name = max(hits, key=hits.__getitem__)
    return name if most >= MIN_HITS and most >= LEAD * second else None


def _cyrillic(sample: str) -> str | None:
    ukrainian, russian = len(_UKRAINIAN.findall(sample)), len(_RUSSIAN.findall(sample))
    if ukrainian == russian:
        return None
    return "uk" if ukrainian > russian else "ru"
