"""Frameworks over the SDKs: chat, stream, tools and structured output give the same from every arm as from the own provider.

They cannot all send headers, so the arm is named by the model. What is compared is what an app sees: texts, calls, objects.
"""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import instructor
import litellm
import openai
import pytest
from click.testing import CliRunner
from google import genai
from langchain_anthropic import ChatAnthropic
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_openai import ChatOpenAI
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from llm.cli import cli
from pydantic_ai import Agent, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.sdk.asked import ASK, TOOLS, Trip, chat_tools
from tests.sdk.stack import ARMS, Stack, virtual

Ask = Callable[[Stack, str, str], Any]  # the stack, what is asked, the model -> what the app sees
KINDS = ("chat", "stream", "tools", "schema")
PLAN = "I will call the tools that the request gives. "  # of Cohere's models, before they call a tool
USER: list[Any] = [{"role": "user", "content": ASK}]


def langchain(make: Callable[[Stack, str], Any]) -> Ask:
    def ask(stack: Stack, kind: str, model: str) -> Any:
        chat = make(stack, model)
        if kind == "chat":
            return chat.invoke(ASK).text
        if kind == "stream":
            return "".join(chunk.text for chunk in chat.stream(ASK))
        if kind == "tools":
            return [(call["name"], call["args"]) for call in chat.bind_tools(chat_tools()).invoke(ASK).tool_calls]
        return chat.with_structured_output(Trip).invoke(ASK)

    return ask


def weather(city: str, days: int) -> str:
    """The weather of a city."""
    return f"{city} {days}"


def clock(city: str, days: int) -> str:
    """The clock of a city."""
    return f"{city} {days}"


def llama_index(make: Callable[[Stack, str], Any]) -> Ask:
    def ask(stack: Stack, kind: str, model: str) -> Any:
        chat = make(stack, model)
        if kind == "chat":
            return str(chat.complete(ASK))
        if kind == "stream":
            return "".join(part.delta or "" for part in chat.stream_complete(ASK))
        if kind == "tools":
            tools = [FunctionTool.from_defaults(one) for one in (weather, clock)]
            answer = chat.chat_with_tools(tools, user_msg=ASK, allow_parallel_tool_calls=True)
            calls = chat.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
            return [(call.tool_name, call.tool_kwargs) for call in calls]
        return chat.as_structured_llm(Trip).complete(ASK).raw

    return ask


def litellm_of(dialect: str, path: str) -> Ask:
    def ask(stack: Stack, kind: str, model: str) -> Any:
        asked: Any = {"model": f"{dialect}/{model}", "api_base": stack.url + path, "api_key": "k", "messages": USER}
        if kind == "stream":
            return "".join(part.choices[0].delta.content or "" for part in litellm.completion(**asked, stream=True))
        if kind == "tools":
            calls = litellm.completion(**asked, tools=chat_tools()).choices[0].message.tool_calls
            return [(call.function.name, json.loads(call.function.arguments)) for call in calls]
        form = {"response_format": Trip} if kind == "schema" else {}
        return litellm.completion(**asked, **form).choices[0].message.content

    return ask


def instructor_of(make: Callable[[Stack, str], Any]) -> Ask:
    def ask(stack: Stack, kind: str, model: str) -> Any:
        client = make(stack, model)
        asked: Any = {"model": model, "max_tokens": 200, "messages": USER}
        if kind == "stream":
            return list(client.chat.completions.create_partial(response_model=Trip, **asked))[-1].model_dump()
        return client.chat.completions.create(response_model=Trip, **asked).model_dump()

    return ask


def pydantic_ai(make: Callable[[Stack, str], Any]) -> Ask:
    async def streamed(agent: Agent) -> str:
        async with agent.run_stream(ASK) as run:
            return str(await run.get_output())

    def ask(stack: Stack, kind: str, model: str) -> Any:
        async def run() -> Any:
            chat = make(stack, model)
            if kind == "chat":
                return (await Agent(chat).run(ASK)).output
            if kind == "stream":
                return await streamed(Agent(chat))
            if kind == "schema":
                return (await Agent(chat, output_type=ToolOutput(Trip)).run(ASK)).output
            called: list[str] = []
            agent = Agent(chat)
            agent.tool_plain(lambda city, days: called.append("weather") or "sunny", name="weather")
            agent.tool_plain(lambda city, days: called.append("clock") or "noon", name="clock")
            output = (await agent.run(ASK)).output
            return sorted(called), output

        return asyncio.run(run())

    return ask


def llm_tool(stack: Stack, kind: str, model: str) -> Any:
    """The command line tool, with the model named in its own list of models."""
    folder = Path(os.environ["LLM_USER_PATH"])
    known = {
        "model_id": model,
        "model_name": model,
        "api_base": stack.v1,
        "supports_schema": True,
        "supports_tools": True,
    }
    (folder / "extra-openai-models.yaml").write_text(json.dumps([known]))
    options = {"chat": ["--no-stream"], "schema": ["--no-stream", "--schema", "city, days int"]}.get(kind, [])
    if kind == "tools":
        options = ["--functions", "def weather(city: str, days: int) -> str:\n    return 'sunny'\n"]
    done = CliRunner().invoke(cli, ["prompt", "-m", model, "--no-log", *options, ASK], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.removeprefix(PLAN)


def _google(stack: Stack) -> genai.Client:
    return genai.Client(api_key="k", http_options={"base_url": stack.url})


CLIENTS: dict[str, Ask] = {
    "langchain-openai": langchain(lambda stack, model: ChatOpenAI(base_url=stack.v1, api_key="k", model=model)),
    "langchain-openai-responses": langchain(
        lambda stack, model: ChatOpenAI(base_url=stack.v1, api_key="k", model=model, use_responses_api=True)
    ),
    "langchain-anthropic": langchain(
        lambda stack, model: ChatAnthropic(base_url=stack.url, api_key="k", model=model, max_tokens=200)
    ),
    "langchain-google": langchain(
        lambda stack, model: ChatGoogleGenerativeAI(base_url=stack.url, api_key="k", model=model)
    ),
    "llama-index-openai": llama_index(
        lambda stack, model: OpenAI(api_base=stack.v1, api_key="k", model="gpt-4o", additional_kwargs={"model": model})
    ),
    "litellm-openai": litellm_of("openai", "/v1"),
    "litellm-anthropic": litellm_of("anthropic", ""),
    "instructor-openai": instructor_of(
        lambda stack, _: instructor.from_openai(openai.OpenAI(base_url=stack.v1, api_key="k"))
    ),
    "instructor-anthropic": instructor_of(
        lambda stack, _: instructor.from_anthropic(anthropic.Anthropic(base_url=stack.url, api_key="k"))
    ),
    "pydantic-ai-openai": pydantic_ai(
        lambda stack, model: OpenAIChatModel(model, provider=OpenAIProvider(base_url=stack.v1, api_key="k"))
    ),
    "pydantic-ai-responses": pydantic_ai(
        lambda stack, model: OpenAIResponsesModel(model, provider=OpenAIProvider(base_url=stack.v1, api_key="k"))
    ),
    "pydantic-ai-anthropic": pydantic_ai(
        lambda stack, model: AnthropicModel(model, provider=AnthropicProvider(base_url=stack.url, api_key="k"))
    ),
    "pydantic-ai-google": pydantic_ai(
        lambda stack, model: GoogleModel(model, provider=GoogleProvider(client=_google(stack)))
    ),
    "llm": llm_tool,
}


OBJECTS = ("instructor-openai", "instructor-anthropic")  # these make objects, whole and streamed, and nothing else
ASKED = [(client, kind) for client in CLIENTS for kind in (("schema", "stream") if client in OBJECTS else KINDS)]


@pytest.fixture(scope="module", autouse=True)
def _llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.environ["LLM_USER_PATH"] = str(tmp_path_factory.mktemp("llm"))
    os.environ["OPENAI_API_KEY"] = "k"
    yield
    del os.environ["LLM_USER_PATH"], os.environ["OPENAI_API_KEY"]


@pytest.fixture(scope="module")
def own(stack: Stack) -> Callable[[str, str], Any]:
    """What a client gets from its own provider, asked once."""
    known: dict[tuple[str, str], Any] = {}

    def of(client: str, kind: str) -> Any:
        if (client, kind) not in known:
            known[client, kind] = CLIENTS[client](stack, kind, _model(kind))
        return known[client, kind]

    return of


def _model(kind: str) -> str:
    return "two-calls" if kind == "tools" else "plain"


@pytest.mark.parametrize(("client", "kind"), ASKED)
def test_a_framework(stack: Stack, own: Callable[[str, str], Any], client: str, kind: str) -> None:
    """One framework, one kind of call, every arm."""
    expected = own(client, kind)
    assert expected
    got = {arm: CLIENTS[client](stack, kind, virtual(arm, _model(kind))) for arm in ARMS}
    assert got == dict.fromkeys(ARMS, expected)


def test_both_tools_are_called(own: Callable[[str, str], Any]) -> None:
    """Else parallel calls would not have been compared."""
    assert [name for name, _ in own("langchain-anthropic", "tools")] == list(TOOLS)
    assert isinstance(own("langchain-openai", "schema"), Trip)
