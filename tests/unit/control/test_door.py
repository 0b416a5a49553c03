"""What the health and admin ports do with a fault of their own: told by kind and place, and with nothing of the request."""

import asyncio
import socket

from aiohttp import ClientSession, web

from sidecar.control.door import Door, runner_of


async def test_a_fault_of_ours_is_told_where_all_others_are() -> None:
    """SEC-INJECTION: an exception of a handler is a 500 and goes to `on_bug`; a malformed request goes nowhere."""
    bugs: list[tuple[str, BaseException]] = []

    async def broken(_request: web.Request) -> web.Response:
        raise KeyError("prompt")

    app = web.Application()
    app.router.add_get("/", broken)
    runner = runner_of("health", app, lambda where, error: bugs.append((where, error)))
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await Door(runner, sock).start()
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
        assert answer.status == 500
        assert "prompt" not in await answer.text()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nprompt\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.0 400")
    writer.close()
    await runner.cleanup()
    assert [(where, type(error)) for where, error in bugs] == [("health port", KeyError)]
