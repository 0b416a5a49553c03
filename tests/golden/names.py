"""What the goldens are about: the scenarios, the dialects, and which of them meet.

Only the standard library is used here, as Google's SDK judges in an environment without the sidecar.
"""

from typing import Final, Literal

Format = Literal["chat", "responses", "messages", "generate", "cohere", "converse"]
SCENARIOS: Final = (
    "text", "tool", "tools", "results", "image", "thinking", "refusal", "schema", "error", "odd",
)  # fmt: skip
CLIENTS: Final[tuple[Format, ...]] = ("chat", "responses", "messages", "generate")
ARMS: Final[tuple[Format, ...]] = (*CLIENTS, "cohere", "converse")
PAIRS: Final = tuple((client, arm) for client in CLIENTS for arm in ARMS if client != arm)
MODELS: Final[dict[Format, str]] = {
    "chat": "gpt-5.1",
    "responses": "gpt-5.1",
    "messages": "claude-sonnet-4-5",
    "generate": "gemini-2.5-flash",
    "cohere": "command-a-reasoning-08-2025",
    "converse": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}
