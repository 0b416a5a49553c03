"""langchain-openai and plain curl get from real models, through the sidecar, what they get without it."""

import json
import subprocess
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.real.conftest import Pair
from tests.real.same import header_names, stable, stable_text, unchunked

pytestmark = pytest.mark.real

ASK = "What is the capital of Italy? Answer with the city name only."
SAME_EVERY_TIME = {"temperature": 0, "seed": 1, "cache_prompt": False}
MESSAGES = [{"role": "user", "content": ASK}]


def _chat_model(origin: str, model: str) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=origin + "/v1",
        api_key=SecretStr("sk-test"),
        model=model,
        temperature=0,
        seed=1,
        max_retries=0,
        max_completion_tokens=12,
        extra_body={"cache_prompt": False},
    )


def test_langchain_gets_the_same_message(openai_pair: Pair) -> None:
    """`invoke` of ChatOpenAI: text, usage and metadata."""
    answers: list[Any] = []
    for origin in (openai_pair.direct, openai_pair.through):
        message = _chat_model(origin, openai_pair.model).invoke(ASK)
        answers.append((type(message), message.content, message.usage_metadata, stable(message.response_metadata)))
    assert answers[0][2]["output_tokens"] > 0
    assert answers[1] == answers[0]


def test_langchain_gets_the_same_stream(openai_pair: Pair) -> None:
    """`stream` of ChatOpenAI: the same chunks in the same order."""
    answers = []
    for origin in (openai_pair.direct, openai_pair.through):
        chunks = list(_chat_model(origin, openai_pair.model).stream(ASK))
        answers.append([(chunk.content, chunk.usage_metadata, stable(chunk.response_metadata)) for chunk in chunks])
    assert len(answers[0]) > 2
    assert answers[1] == answers[0]


def _curl(url: str, body: object | None, *options: str) -> bytes:
    command = ["curl", "--silent", "--show-error", "--raw", "--include", "--max-time", "60", *options, url]
    if body is not None:
        command += ["--header", "Content-Type: application/json", "--data-binary", json.dumps(body)]
    return subprocess.run(command, check=True, capture_output=True, timeout=90).stdout


CURLS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 12, **SAME_EVERY_TIME}),
    "chat_stream": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": 12, "stream": True, **SAME_EVERY_TIME},
    ),
    "chat_stream_usage": (
        "/v1/chat/completions",
        {
            "messages": MESSAGES,
            "max_tokens": 12,
            "stream": True,
            "stream_options": {"include_usage": True},
            **SAME_EVERY_TIME,
        },
    ),
    "responses_stream": ("/v1/responses", {"input": ASK, "max_output_tokens": 12, "stream": True, **SAME_EVERY_TIME}),
    "models": ("/v1/models", None),
    "not_found": ("/v1/nothing/here", {"a": 1}),
    "wrong_method": ("/v1/chat/completions", None),
}


@pytest.mark.parametrize("name", CURLS)
def test_curl_gets_the_same_bytes(name: str, openai_pair: Pair) -> None:
    """Status line, header names and their order, and the body, byte for byte but for ids and times."""
    path, body = CURLS[name]
    asked = None if body is None else {"model": openai_pair.model, **body}
    answers = []
    for origin in (openai_pair.direct, openai_pair.through):
        head, _, content = _curl(origin + path, asked).partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            content = unchunked(content)
        answers.append((header_names(head), stable_text(content)))
    assert len(answers[0][0]) > 2
    assert answers[1][0] == answers[0][0]
    assert answers[1][1] == answers[0][1]


def test_curl_of_anthropic_gets_the_same_bytes(anthropic_pair: Pair) -> None:
    """The same for a stream of /v1/messages."""
    asked = {"model": anthropic_pair.model, "messages": MESSAGES, "max_tokens": 12, "stream": True, **SAME_EVERY_TIME}
    answers = []
    for origin in (anthropic_pair.direct, anthropic_pair.through):
        options = ("--header", "anthropic-version: 2023-06-01", "--header", "x-api-key: sk-test")
        head, _, content = _curl(origin + "/v1/messages", asked, *options).partition(b"\r\n\r\n")
        answers.append((header_names(head), stable_text(unchunked(content))))
    assert b"event: message_stop\n" in answers[0][1]
    assert answers[1] == answers[0]
