"""The simulated provider on its socket: dialects, times, keys, faults and what it saw."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys

import anthropic
import openai
import orjson
import pytest
import trustme

from sidecar.clock import monotonic
from sidecar.sim.knobs import Distribution, Fault, SimConfig, SimulatedModel
from sidecar.sim.marker import score
from sidecar.sim.provider import SimulatedProvider
from tests.unit.sim.client import chat, on, post, send
from tests.unit.sim.conftest import Start

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "number"}, "x": {"type": "string"}},
                "required": ["city", "days"],
            },
        },
    }
]


def openai_client(port: int) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k", max_retries=0)


def anthropic_client(port: int) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{port}", api_key="k", max_retries=0)


async def test_the_openai_sdk_takes_every_endpoint(start: Start) -> None:
    """Chat, completions, embeddings, Responses and models parse in the real SDK, whole and streamed."""
    provider = await start(SimConfig(models={"m": SimulatedModel(reasoning_tokens=Distribution(3))}))
    ask = {"model": "m", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}
    async with openai_client(provider.port) as client:
        answer = await client.chat.completions.create(**ask)
        assert answer.choices[0].message.content.startswith("17 + 25 = 42. ")
        assert answer.usage.completion_tokens == 27
        assert answer.usage.completion_tokens_details.reasoning_tokens == 3
        async with client.chat.completions.stream(**ask, stream_options={"include_usage": True}) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == answer.choices[0].message.content
        assert final.usage.completion_tokens == 27
        assert (await client.completions.create(model="m", prompt="x")).choices[0].text
        texts = [chunk.choices[0].text async for chunk in await client.completions.create(
            model="m", prompt="x", stream=True
        )]  # fmt: skip
        assert score("".join(texts)) == 1.0
        vectors = (await client.embeddings.create(model="m", input=["a", "b"])).data
        assert (len(vectors), len(vectors[0].embedding)) == (2, 8)
        plain = await client.embeddings.create(model="m", input="a", encoding_format="float", dimensions=3)
        assert len(plain.data[0].embedding) == 3
        response = await client.responses.create(model="m", input="What is 3 + 4?")
        assert response.output_text.startswith("3 + 4 = 7.")
        async with client.responses.stream(model="m", input="What is 3 + 4?") as stream:
            assert (await stream.get_final_response()).output_text == response.output_text
        assert [model.id async for model in client.models.list()] == ["m"]
        assert (await client.models.retrieve("m")).id == "m"


async def test_the_anthropic_sdk_takes_messages_and_count_tokens(start: Start) -> None:
    """Messages parse in the real SDK, whole and streamed, with cached input reported apart and thinking shown."""
    model = SimulatedModel(cached_fraction=0.5, reasoning_tokens=Distribution(4), reasoning_visible=True)
    provider = await start(SimConfig(default=model))
    ask = {"model": "c", "max_tokens": 99, "messages": [{"role": "user", "content": "What is 1 + 2?"}]}
    async with anthropic_client(provider.port) as client:
        message = await client.messages.create(**ask)
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.usage.cache_read_input_tokens > 0
        async with client.messages.stream(**ask) as stream:
            final = await stream.get_final_message()
        assert final.content[1].text == message.content[1].text
        assert final.usage.output_tokens == message.usage.output_tokens == 28
        assert (await client.messages.count_tokens(model="c", messages=ask["messages"])).input_tokens > 0
        cut = await client.messages.create(**ask | {"max_tokens": 6})
        assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 6)


@pytest.mark.parametrize("reasoning", [0, 2])
async def test_tool_calls_satisfy_their_schema_in_every_dialect(start: Start, reasoning: int) -> None:
    """Arguments carry every required property, streamed in pieces; after a tool's answer the model answers in text."""
    model = SimulatedModel(reasoning_tokens=Distribution(reasoning), reasoning_visible=True)
    provider = await start(SimConfig(default=model))
    wanted = {"city": "Paris", "days": 1.0}
    messages: list = [{"role": "user", "content": "weather?"}]
    async with openai_client(provider.port) as client:
        answer = await client.chat.completions.create(model="m", messages=messages, tools=TOOLS)
        call = answer.choices[0].message.tool_calls[0]
        assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "weather")
        assert orjson.loads(call.function.arguments) == wanted
        async with client.chat.completions.stream(model="m", messages=messages, tools=TOOLS) as stream:
            events = [event async for event in stream]
            final = (await stream.get_final_completion()).choices[0].message.tool_calls[0]
        assert orjson.loads(final.function.arguments) == wanted
        assert sum(event.type == "tool_calls.function.arguments.delta" for event in events) >= 3
        after = [*messages, {"role": "tool", "tool_call_id": "x", "content": "sunny"}]
        text = await client.chat.completions.create(model="m", messages=after, tools=TOOLS)
        assert text.choices[0].message.content
        none = await client.chat.completions.create(model="m", messages=messages, tools=TOOLS, tool_choice="none")
        assert none.choices[0].message.tool_calls is None
        flat = [{"type": "function"} | TOOLS[0]["function"]]
        async with client.responses.stream(model="m", input="x", tools=flat) as stream:
            last = (await stream.get_final_response()).output[-1]
        assert orjson.loads(last.arguments) == wanted
        assert (await client.responses.create(model="m", input="x", tools=flat)).output[-1].name == "weather"
    async with anthropic_client(provider.port) as client:
        tools = [{"name": "weather", "input_schema": TOOLS[0]["function"]["parameters"]}]
        ask = {"model": "m", "max_tokens": 99, "messages": messages, "tools": tools}
        assert (await client.messages.create(**ask)).content[-1].input == wanted
        async with client.messages.stream(**ask) as stream:
            message = await stream.get_final_message()
        assert (message.stop_reason, message.content[-1].input) == ("tool_use", wanted)


async def test_usage_comes_exactly_as_openai_sends_it(start: Start) -> None:
    """With include_usage: null everywhere, then one chunk without choices; without it no chunk mentions usage."""
    provider = await start(SimConfig())
    asked = await send(provider.port, chat(stream=True, stream_options={"include_usage": True}))
    *others, last = asked.events
    assert all(event["usage"] is None for event in others)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 24
    assert asked.body.endswith(b"data: [DONE]\n\n")
    plain = await send(provider.port, chat(stream=True))
    assert b"usage" not in plain.body
    assert plain.events[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("ttft_s", [0.0505, 0.0213])
async def test_the_first_token_leaves_on_time(start: Start, ttft_s: float) -> None:
    """A constant ttft is kept to 0.3 ms, never early, and `sent` tells it: the best of 15 shows it on a busy machine too."""
    model = SimulatedModel(ttft=Distribution(ttft_s), ttfb=Distribution(0.005), ttfe=Distribution(0.01))
    provider = await start(SimConfig(default=model))
    errors = []
    for _ in range(15):
        exchange = await send(provider.port, chat(stream=True))
        number, at = provider.sent[-1]
        assert number in exchange.events[0]["id"]
        errors.append(at - exchange.sent_at - ttft_s)
    print("median error in seconds:", sorted(errors)[7])
    assert min(errors) < 0.0003 + 0.0005  # the client's own write and the server's read lie between
    assert min(errors) > 0


async def test_head_first_event_and_first_token_are_apart(start: Start) -> None:
    """ttfb, ttfe, ttft and the end arrive in order, each not before its knob."""
    model = SimulatedModel(
        ttfb=Distribution(0.02), ttfe=Distribution(0.04), ttft=Distribution(0.06), itl=Distribution(0.005),
        output_tokens=Distribution(8),
    )  # fmt: skip
    provider = await start(SimConfig(default=model))
    exchange = await send(provider.port, chat(stream=True))
    assert exchange.came_s(b"HTTP/1.1 200") >= 0.02
    assert exchange.came_s(b'"delta":{"role"') >= 0.04
    assert exchange.came_s(b'"delta":{"content"') >= 0.06
    assert exchange.came_s(b"[DONE]") >= 0.06 + 7 * 0.005
    whole = await send(provider.port, chat())
    assert whole.reads[0][0] - whole.sent_at >= 0.06 + 7 * 0.005


async def test_random_gaps_are_drawn_per_token(start: Start) -> None:
    """A lognormal itl spreads tokens in streams and delays whole answers."""
    model = SimulatedModel(itl=Distribution(0.002, "lognormal", cv=0.3), output_tokens=Distribution(20))
    provider = await start(SimConfig(default=model))
    streamed = await send(provider.port, chat(stream=True))
    assert streamed.came_s(b"[DONE]") > 0.019 * 0.5
    whole = await send(provider.port, chat())
    assert whole.reads[-1][0] - whole.sent_at > 0.019 * 0.5


async def test_same_seed_same_answers(start: Start) -> None:
    """Two providers with one seed answer alike, text and ids; another seed answers otherwise."""
    model = SimulatedModel(output_tokens=Distribution(40, "gamma"), quality=0.5)
    providers = [await start(SimConfig(default=model, seed=seed)) for seed in (7, 7, 8)]
    said = []
    for provider in providers:
        answers = [(await send(provider.port, chat())).json for _ in range(5)]
        said.append([(answer["id"], answer["choices"]) for answer in answers])
    assert said[0] == said[1]
    assert said[0] != said[2]


async def test_a_client_that_leaves_is_seen_at_once(start: Start) -> None:
    """An abort in the middle of a stream is listed with its time, long before the stream would have ended."""
    provider = await start(SimConfig(default=SimulatedModel(itl=Distribution(0.01), output_tokens=Distribution(500))))
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    writer.write(chat(stream=True))
    await reader.read(10)
    left = monotonic()
    writer.close()
    for _ in range(200):  # two seconds; the stream takes five
        if provider.aborts:
            break
        await asyncio.sleep(0.01)
    assert len(provider.aborts) == 1
    print("seconds until the abort was seen:", provider.aborts[0][1] - left)
    assert provider.aborts[0][1] >= left
    assert provider.open_connections == 0


async def test_requests_are_kept_as_they_came(start: Start) -> None:
    """Head bytes, order and case included, and body are kept when asked for; the list is bounded."""
    provider = await start(SimConfig(requests_kept=2))
    for number in range(3):
        await send(provider.port, post("/v1/models?x=1", b"", f"X-CaSe: {number}\r\n", "GET"))
    assert [request.head.split(b"\r\n")[2] for request in provider.requests] == [b"X-CaSe: 1", b"X-CaSe: 2"]
    assert provider.requests[0].target == "/v1/models?x=1"
    assert provider.served == 3


async def test_keep_alive_chunked_bodies_and_expect(start: Start) -> None:
    """One connection serves request after request, also chunked, cut anywhere, two at once, or waiting for 100."""
    provider = await start(SimConfig())
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    body = orjson.dumps({"model": "m", "messages": [1]})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nx: y\r\n\r\n" % (len(body), body)
    assert (await on(reader, writer, chunked)).status == 200
    for piece in (chunked[:70], chunked[70:90], chunked[90:100], chunked[100:-3]):
        writer.write(piece)
        await asyncio.sleep(0.01)
    assert (await on(reader, writer, chunked[-3:])).status == 200
    writer.write(chat() + chat())
    await asyncio.sleep(0.05)
    assert (await reader.read(65536)).count(b"HTTP/1.1 200 OK") == 2
    expecting = post("/v1/chat/completions", body, "Expect: 100-continue\r\n")
    cut = len(expecting) - len(body)
    writer.write(expecting[:cut])
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 1) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(expecting[cut : cut + 5])
    await asyncio.sleep(0.01)
    assert (await on(reader, writer, expecting[cut + 5 :])).status == 200
    assert provider.connections == 1
    last = await on(reader, writer, post("/v1/chat/completions", body, "Connection: close\r\n"))
    assert last.status == 200
    assert await reader.read() == b""
    writer.close()


async def test_bad_http_is_refused(start: Start) -> None:
    """A head without three words, one without end, and a body beyond the limit."""
    provider = await start(SimConfig(max_body_bytes=10))
    assert (await send(provider.port, b"HELLO\r\n\r\n")).status == 400
    assert (await send(provider.port, b"GET / HTTP/1.1\r\nx: " + b"y" * 70000)).status == 431
    assert (await send(provider.port, chat())).status == 413


async def test_tls(start: Start) -> None:
    """The provider speaks TLS when given a context."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    provider = SimulatedProvider()
    await provider.start("localhost", 0, server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    reader, writer = await asyncio.open_connection("localhost", provider.port, ssl=client_context)
    assert (await on(reader, writer, chat())).status == 200
    writer.close()
    await provider.close()
    await provider.close()  # twice is fine
    assert provider.open_connections == 0


async def test_faults_are_set_at_run_time_over_http_and_in_process(start: Start) -> None:
    """POST /_sim/faults replaces the faults, a wrong body is a 400 that names the key, set_faults clears them."""
    provider = await start(SimConfig())
    fault = {"kind": "status", "status": 503, "models": ["m"]}
    assert (await send(provider.port, post("/_sim/faults", [fault]))).json[0]["status"] == 503
    assert (await send(provider.port, chat())).status == 503
    assert (await send(provider.port, chat("other"))).status == 200
    wrong = await send(provider.port, post("/_sim/faults", [{"kind": "status", "statsu": 1}]))
    assert (wrong.status, "statsu" in wrong.json["error"]["message"]) == (400, True)
    assert (await send(provider.port, post("/_sim/faults", {}))).status == 400
    assert (await send(provider.port, post("/_sim/faults", b"{"))).status == 400
    assert (await send(provider.port, post("/_sim/nothing", []))).status == 404
    assert provider.faults == (Fault("status", status=503, models=("m",)),)
    provider.set_faults(())
    assert (await send(provider.port, chat())).status == 200
    knobs = {"m": {"output_tokens": 9}}
    assert (await send(provider.port, post("/_sim/models", knobs))).json["m"]["output_tokens"]["mean"] == 9
    assert (await send(provider.port, chat())).json["usage"]["completion_tokens"] == 9
    provider.set_model("m", SimulatedModel(output_tokens=Distribution(7)))
    assert (await send(provider.port, chat())).json["usage"]["completion_tokens"] == 7


async def test_it_runs_as_its_own_process() -> None:
    """`python -m sidecar.sim` prints its port, serves with knobs from the command line, and ends on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar.sim", "--set", "default:output_tokens=8", stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    port = int(await asyncio.wait_for(process.stdout.readline(), 10))
    assert (await send(port, chat())).json["usage"]["completion_tokens"] == 8
    os.kill(process.pid, signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 5) == 0
