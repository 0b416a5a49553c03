"""What every client of this folder asks, in the plainest form; each test says it in its SDK's own words."""

from typing import Any

from pydantic import BaseModel

ASK = "What is 17 + 25?"  # the simulated provider answers sums
SYSTEM = "Be brief."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = ("weather", "clock")
RESULT = "sunny"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # a PNG


class Trip(BaseModel):
    """The same as SCHEMA, for SDKs that take classes."""

    city: str
    days: int


def chat_tools(count: int = 2) -> list[dict[str, Any]]:
    """The tools as chat completions have them."""
    return [
        {"type": "function", "function": {"name": name, "description": f"The {name} of a city.", "parameters": SCHEMA}}
        for name in TOOLS[:count]
    ]
