"""What an experiment may do to a system prompt: edits that make one text of another, behind one interface.

An edit is a deterministic function of a text: `apply(system) -> system`. It asks no model and knows no language. Several
are applied in the order in which the policy lists them, to the request's own system prompt ("" where it has none), or to
the policy's text when the first is `Replace`. What is fenced by ``` is never changed by `Compress` and `Structure`.

    Replace(text)       the policy's text takes the place of the request's
    Compress()          fewer bytes, the same content: white space, empty lines, repeated lines and polite padding go
    Structure()         plain paragraphs become sections: role, instructions, rules (as a list), examples; a text that has
                        headings or XML-like tags already is left as it is
    FewShotTrim(keep)   the first `keep` examples stay; an example begins at a line like `Example 2:`, `Input:`, `Q:` or
                        `User:` and ends at an empty line that no line like `Output:`, `A:` or `Assistant:` follows
    Constraints(lines)  a list of constraints is added at the end, without those that the text has already
    Keep()              the text stays: what variants without edits do beside one that edits, so that requests in which a
                        prompt has no place are left out of the comparison on both sides

What they do not know: whether the text that they make is better. That is what the experiment is for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol

MAX_REMEMBERED: Final = 65_536  # 1e3..1e6 characters; more: up to 64 times as much memory
_FENCE: Final = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
_PADDING: Final = (  # (pattern, what stays); each drops words that carry no instruction
    (re.compile(r"\b(?:please|kindly)\s+", re.IGNORECASE), ""),
    (re.compile(r"\b(?:it is|it's) important (?:to note )?that\s+", re.IGNORECASE), ""),
    (re.compile(r"\bplease note that\s+|\bnote that\s+", re.IGNORECASE), ""),
    (re.compile(r"\bin order to\b", re.IGNORECASE), "to"),
    (re.compile(r"\bmake sure (?:to|that you)\s+", re.IGNORECASE), ""),
    (re.compile(r"\bat all times\b", re.IGNORECASE), "always"),
    (re.compile(r"\byou are required to\b|\byou need to\b|\byou should always\b", re.IGNORECASE), "always"),
)
_BLANKS: Final = re.compile(r"(?<=\S)[ \t]+")  # not the indentation of a line
_EMPTY_LINES: Final = re.compile(r"\n{3,}")
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_MARKED: Final = re.compile(r"^\s*(?:#{1,6}\s|<[a-zA-Z_][\w-]*>)", re.MULTILINE)
_RULE: Final = re.compile(r"\b(?:must|never|always|do not|don't|only|avoid|may not)\b", re.IGNORECASE)
_EXAMPLE: Final = re.compile(r"^\W*(?:example\b.*|(?:input|question|q|user)\s*:.*)$", re.IGNORECASE)
_ANSWER: Final = re.compile(r"^\W*(?:output|answer|a|assistant|response|result)\s*:", re.IGNORECASE)


class Edit(Protocol):
    """One way to make a system prompt of another."""

    def apply(self, system: str, /) -> str:
        """The new text; the same for the same text, always."""


@dataclass(frozen=True, slots=True)
class Replace:
    """The policy's own text. It stands in no log: its repr is its type."""

    text: str = field(repr=False)

    def apply(self, _system: str, /) -> str:
        """The text of the policy, whatever the request's is."""
        return self.text


@dataclass(frozen=True, slots=True)
class Compress:
    """The same content in fewer bytes."""

    def apply(self, system: str, /) -> str:
        """No padding words, no trailing or doubled blanks, no line twice, at most one empty line in a row."""
        return _outside_fences(system, _compressed).strip()


@dataclass(frozen=True, slots=True)
class Structure:
    """The same sentences, in sections."""

    def apply(self, system: str, /) -> str:
        """Sections with a heading each; the text as it is where it has headings, tags or fences, or is empty."""
        paragraphs = [part.strip() for part in re.split(r"\n\s*\n", system) if part.strip()]
        if not paragraphs or _MARKED.search(system) or "```" in system:
            return system
        sections: dict[str, list[str]] = {"Role": [], "Instructions": [], "Rules": [], "Examples": []}
        first, *rest = _SENTENCE.split(paragraphs[0])
        sections["Role"].append(first)
        for paragraph in [" ".join(rest), *paragraphs[1:]]:
            lines = paragraph.splitlines()
            if lines and (_EXAMPLE.match(lines[0]) or _ANSWER.match(lines[0])):
                sections["Examples"].append(paragraph)
                continue
            for sentence in [one for line in lines for one in _SENTENCE.split(line)]:
                ruled = _RULE.search(sentence) is not None
                bullet = sentence.strip().lstrip("-*• ").strip()
                sections["Rules" if ruled else "Instructions"].append(f"- {bullet}" if ruled else sentence.strip())
        parts = [
            f"# {name}\n" + ("\n\n" if name == "Examples" else "\n").join(found)
            for name, found in sections.items()
            if found
        ]
        return "\n\n".join(parts)


@dataclass(frozen=True, slots=True)
class FewShotTrim:
    """The first `keep` (0 or more) examples."""

    keep: int

    def apply(self, system: str, /) -> str:
        """The text without the examples after the first `keep`; what stands around them stays."""
        blocks = _blocks(system.splitlines())
        kept: list[str] = []
        examples = 0
        for lines, is_example in blocks:
            examples += is_example
            if not is_example or examples <= self.keep:
                kept += lines
        if len(kept) == sum(len(lines) for lines, _ in blocks):
            return system
        return _EMPTY_LINES.sub("\n\n", "\n".join(kept)).strip()


@dataclass(frozen=True, slots=True)
class Constraints:
    """Further constraints."""

    lines: tuple[str, ...] = field(repr=False)

    def apply(self, system: str, /) -> str:
        """The text and a list `Constraints:`; as it is when it has all of them."""
        new = [line for line in self.lines if line not in system]
        if not new:
            return system
        added = "Constraints:\n" + "\n".join(f"- {line}" for line in new)
        return f"{system.rstrip()}\n\n{added}" if system.strip() else added


@dataclass(frozen=True, slots=True)
class Keep:
    """The same text."""

    def apply(self, system: str, /) -> str:
        """The text as it is."""
        return system


def rewrite(edits: tuple[Edit, ...], system: str) -> str:
    """`system` with all edits applied in their order.

    A service has few system prompts and sends them with every call: short ones are remembered, because some edits take a
    millisecond.
    """
    return (_remembered if len(system) <= MAX_REMEMBERED else _rewritten)(edits, system)


def _rewritten(edits: tuple[Edit, ...], system: str) -> str:
    for edit in edits:
        system = edit.apply(system)
    return system


_remembered = lru_cache(maxsize=64)(_rewritten)


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    parts = _FENCE.split(text)
    return "".join(part if at % 2 else change(part) for at, part in enumerate(parts))


def _compressed(text: str) -> str:
    for pattern, stays in _PADDING:
        text = pattern.sub(stays, text)
    seen: set[str] = set()
    lines = []
    for line in text.split("\n"):
        short = _BLANKS.sub(" ", line).rstrip()
        if short.strip() and short in seen:
            continue
        seen.add(short)
        lines.append(short)
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines))


def _blocks(lines: list[str]) -> list[tuple[list[str], bool]]:
    """The lines in blocks, each with whether it is an example."""
    blocks: list[tuple[list[str], bool]] = []
    inside = False
    for at, line in enumerate(lines):
        if _EXAMPLE.match(line) and not (inside and blocks[-1][0] and _is_title(blocks[-1][0])):
            blocks.append(([line], True))
            inside = True
            continue
        following = lines[at + 1] if at + 1 < len(lines) else ""
        if inside and not line.strip() and not _ANSWER.match(following):
            inside = False
        if not inside and (not blocks or blocks[-1][1]):
            blocks.append(([], False))
        blocks[-1][0].append(line)
    return blocks


def _is_title(lines: list[str]) -> bool:
    """Whether an example so far is only its title, so that `Input:` below it begins no other one."""
    return len(lines) == 1 and re.match(r"^\W*example\b", lines[0], re.IGNORECASE) is not None
