"""Asks as a client's own SDK asks, and gives what the SDK made of the answer: types, members, exceptions.

    chat, responses   openai        the stream's final object is the SDK's own accumulation
    messages          anthropic     the same

Google's SDK is in an environment of its own: tests/sdk/test_golden_google.py.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from anthropic import AnthropicError, AsyncAnthropic
from openai import APIError, AsyncOpenAI, ContentFilterFinishReasonError, OpenAIError
from openai.lib.streaming.chat import ChatCompletionStreamState

from tests.golden.conversations import Conversation
from tests.golden.names import Format
from tests.golden.typed import typed

_UNNAMED: Final = ("temperature", "top_k")  # older models take them; the newest SDK has no arguments for them


def failed(error: Exception) -> dict[str, Any]:
    """An exception as an app sees it: its class, the status, and the error object that came."""
    body = getattr(error, "body", None)
    return {"(raised)": type(error).__name__, "status": getattr(error, "status_code", None), "body": typed(body)}


class OpenAIJudge:
    """An app on the openai SDK."""

    def __init__(self, port: int) -> None:
        self.sdk = AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="client-key", max_retries=0)

    async def chat(self, said: Conversation, headers: dict[str, str], *, streamed: bool) -> Any:
        """The completion, and before it what an error left of a stream."""
        if not streamed:
            return typed(await self.sdk.chat.completions.create(**said.request, extra_headers=headers))
        state = ChatCompletionStreamState()
        text = ""
        try:
            async for chunk in await self.sdk.chat.completions.create(**said.streamed_request, extra_headers=headers):
                with suppress(ContentFilterFinishReasonError):  # told once the answer is in the snapshot
                    state.handle_chunk(chunk)
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
        except APIError as error:
            return {"text": text, "error": failed(error)}
        return typed(state.current_completion_snapshot)

    async def responses(self, said: Conversation, headers: dict[str, str], *, streamed: bool) -> Any:
        if not streamed:
            return typed(await self.sdk.responses.create(**said.request, extra_headers=headers))
        text = ""
        async with self.sdk.responses.stream(**said.request, extra_headers=headers) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    text += event.delta
                elif event.type in ("response.incomplete", "response.failed"):  # the SDK has no final object of these
                    return typed(event.response)
                elif event.type == "error":
                    return {"text": text, "error": typed(event)}
            return typed(await stream.get_final_response())


class AnthropicJudge:
    """An app on the anthropic SDK."""

    def __init__(self, port: int) -> None:
        self.sdk = AsyncAnthropic(base_url=f"http://127.0.0.1:{port}", api_key="client-key", max_retries=0)

    async def messages(self, said: Conversation, headers: dict[str, str], *, streamed: bool) -> Any:
        named = {name: value for name, value in said.request.items() if name not in _UNNAMED}
        more = {name: value for name, value in said.request.items() if name in _UNNAMED}
        if not streamed:
            return typed(await self.sdk.messages.create(**named, extra_headers=headers, extra_body=more))
        text = ""
        try:
            async with self.sdk.messages.stream(**named, extra_headers=headers, extra_body=more) as stream:
                async for piece in stream.text_stream:
                    text += piece
                return typed(await stream.get_final_message())
        except AnthropicError as error:
            return {"text": text, "error": failed(error)}


Ask = Callable[..., Any]


def judge_of(client: Format, port: int) -> tuple[Any, Ask]:
    """The SDK (to be closed) and how it asks."""
    judge = AnthropicJudge(port) if client == "messages" else OpenAIJudge(port)
    return judge.sdk, getattr(judge, client)


async def verdict(ask: Ask, said: Conversation, headers: dict[str, str], *, streamed: bool) -> Any:
    """What the SDK made of it, an exception too."""
    try:
        return await ask(said, headers, streamed=streamed)
    except (OpenAIError, AnthropicError) as error:
        return failed(error)
