"""The text files of the goldens: sections with a headline, JSON laid out so that a person can read it.

    === request POST /v1/messages
    {...}

    === stream 200
    event: message_start
    ...

Bedrock's streams are binary: in a file each line is one message, the type of its event and its JSON; an exception's type
begins with `!` (`conversations.framed`).
"""

import json
from pathlib import Path
from typing import Any

WIDTH = 120
_MARK = "=== "


def pretty(value: Any, indent: int = 0) -> str:
    """JSON, in one line where it fits."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent <= WIDTH or not isinstance(value, dict | list) or not value:
        return line
    pad = " " * (indent + 2)
    if isinstance(value, list):
        inner = [pad + pretty(one, indent + 2) for one in value]
        return "[\n" + ",\n".join(inner) + "\n" + " " * indent + "]"
    inner = [f"{pad}{json.dumps(name)}: {pretty(one, indent + 2)}" for name, one in value.items()]
    return "{\n" + ",\n".join(inner) + "\n" + " " * indent + "}"


def read(file: Path) -> dict[str, tuple[str, str]]:
    """The sections of a file: name -> (the rest of the headline, the text)."""
    found: dict[str, tuple[str, str]] = {}
    for section in ("\n" + file.read_text(encoding="utf-8")).split("\n" + _MARK)[1:]:
        head, _, text = section.partition("\n")
        name, _, rest = head.partition(" ")
        found[name] = (rest, text.strip("\n"))
    return found


def written(sections: dict[str, tuple[str, str]]) -> str:
    """The text of a file with these sections, in order."""
    return "\n".join(f"{_MARK}{name} {rest}".rstrip() + f"\n{text}\n" for name, (rest, text) in sections.items())
