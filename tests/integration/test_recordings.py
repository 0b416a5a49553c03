"""Recorded bytes of real servers and real clients go through the sidecar and come out the same."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import Response, connected, ok

CHUNKINGS = [1, 7, 64, 1500, 0]  # bytes in each write of the upstream; 0: all in one
_MANY_WRITES = 600  # a recording that would need more is sent in larger pieces: the test has to end
_NOT_COMPARED = (b"keep-alive:", b"connection:", b"x-sidecar-")


@dataclass(frozen=True)
class Recording:
    name: str
    request: bytes
    raw: bytes
    method: str
    streams: bool

    def pieces(self, size: int) -> list[bytes]:
        size = max(size or len(self.raw), len(self.raw) // _MANY_WRITES + 1)
        return [self.raw[at : at + size] for at in range(0, len(self.raw), size)]


def recordings(shared: Path) -> Iterator[Recording]:
    folder = shared / "fixtures" / "llama_server"
    for file in sorted(folder.glob("*.http")):
        note = json.loads(file.with_suffix(".json").read_text())["request"]
        fields = {
            name: value
            for name, value in note["headers"].items()
            if name.lower() not in ("host", "origin", "content-length")
        }
        body = (note.get("body") or "").encode()
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        path = note["path"] if note["path"].startswith("/v1/") else "/v1" + note["path"]
        head = f"{note['method']} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        streams = b'"stream": true' in body or b'"stream":true' in body
        yield Recording(file.stem, head.encode() + body, file.read_bytes(), note["method"], streams)


def lines_of(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n") if not line.lower().startswith(_NOT_COMPARED)]


def payload(wire: bytes) -> bytes:
    return Response(raw=wire).body


@pytest.mark.parametrize("size", CHUNKINGS)
async def test_every_recorded_response_comes_out_the_same(
    shared: Path, upstream: Upstream, serve: Serve, size: int
) -> None:
    """FID-18, INC-1, INC-10: head lines and body bytes, framing included; a recorded cut stays a cut."""
    up = await upstream()
    side = await serve(up)
    side.app.plane.defaults["openai"].ask_usage = False
    for one in recordings(shared):
        up.by = lambda _head, one=one: [*one.pieces(size), "close"]  # type: ignore[misc]
        async with connected(side.port) as client:
            client.send(one.request)
            got = await client.response(method=one.method)
        if not one.raw:
            assert got.status == 502, one.name
            continue
        assert lines_of(got.head) == lines_of(one.raw.partition(b"\r\n\r\n")[0]), one.name
        assert got.wire_body == one.raw.partition(b"\r\n\r\n")[2], one.name
    assert side.balanced


@pytest.mark.parametrize("size", CHUNKINGS)
async def test_a_client_that_did_not_ask_gets_what_it_would_have_got(
    shared: Path, upstream: Upstream, serve: Serve, size: int
) -> None:
    """GW-02: with `usage: ask` the decoded body is the one of the recording, whose client asked or did not need to."""
    up = await upstream()
    side = await serve(up)
    compared = 0
    for one in recordings(shared):
        if b"include_usage" in one.request or not one.raw:
            continue
        up.by = lambda _head, one=one: [*one.pieces(size), "close"]  # type: ignore[misc]
        async with connected(side.port) as client:
            client.send(one.request)
            got = await client.response(method=one.method)
        body = payload(one.raw)
        if side.app.plane.defaults["openai"].ask_usage and got.end == "whole":
            assert got.body == body, one.name
            compared += 1
        else:  # a cut may lose what was held for the look-ahead; nothing is invented
            assert body.startswith(got.body), one.name
        side.app.plane.defaults["openai"].ask_usage = True
    assert compared > 80


async def test_recorded_usage_event_is_taken_out(shared: Path, upstream: Upstream, serve: Serve) -> None:
    """GW-02: the answer to a client that asked, given to one that did not, has lost the usage event and nothing else."""
    up = await upstream()
    side = await serve(up)
    for one in recordings(shared):
        if b"include_usage" not in one.request or b"/chat/" not in one.request or not one.streams:
            continue  # completions of llama.cpp carry their usage unasked, in the finish event
        up.by = lambda _head, one=one: [*one.pieces(64), "close"]  # type: ignore[misc]
        asked = re.sub(rb', "stream_options": ?\{"include_usage": ?true\}', b"", one.request.partition(b"\r\n\r\n")[2])
        assert b"stream_options" not in asked
        head = re.sub(
            rb"Content-Length: [0-9]+", b"Content-Length: %d" % len(asked), one.request.partition(b"\r\n\r\n")[0]
        )
        async with connected(side.port) as client:
            client.send(head + b"\r\n\r\n" + asked)
            got = await client.response()
        assert b'"usage"' not in got.body, one.name
        kept = [event for event in payload(one.raw).split(b"\n\n") if b'"usage"' not in event]
        if b'"timings"' not in payload(one.raw):
            assert got.body.split(b"\n\n") == kept, one.name
        else:
            assert len(got.body.split(b"\n\n")) == len(kept), one.name


async def test_requests_of_real_sdks_go_up_as_they_came(shared: Path, upstream: Upstream, serve: Serve) -> None:
    """FID-1, FID-18, INC-38: the upstream gets the same bytes but for Host, hop-by-hop lines and what the question needs."""
    up = await upstream([ok()])
    side = await serve(up)
    count = 0
    for file in sorted((shared / "fixtures" / "clients").glob("*/*.http")):
        raw = file.read_bytes()
        sent_head, _, sent_body = raw.partition(b"\r\n\r\n")
        async with connected(side.port) as client:
            client.send(raw)
            got = await client.response()
        assert got.status == 200, file
        seen = up.requests[-1]
        chunked = b"transfer-encoding: chunked" in sent_head.lower()
        sent = payload(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + sent_body) if chunked else sent_body
        asked = seen.body != sent
        assert same_but_host(sent_head, seen.head[:-4], up.port, asked=asked), (file, seen.head)
        if asked:
            assert re.search(rb'"stream": ?true', sent), file
            assert b"include_usage" not in sent, file
            question = b'"stream_options":{"include_usage":true}'
            assert seen.body.replace(b"," + question, b"").replace(question + b",", b"") == sent, file
        count += 1
    assert count > 100


def same_but_host(sent: bytes, seen: bytes, port: int, *, asked: bool) -> bool:
    """Whether the two heads differ in nothing but what the sidecar may change."""
    hop = (b"connection:", b"keep-alive:", b"proxy-connection:")
    expected = []
    for line in sent.split(b"\r\n"):
        name = line.partition(b":")[0].lower()
        if line.lower().startswith(hop):
            continue
        if name == b"host":
            line = line.partition(b":")[0] + b": 127.0.0.1:%d" % port
        if asked and name == b"accept-encoding":
            line = line.partition(b":")[0] + b": identity"
        expected.append(line)
    found = seen.split(b"\r\n")
    if asked:
        expected = [line for line in expected if not line.lower().startswith(b"content-length:")]
        found = [line for line in found if not line.lower().startswith(b"content-length:")]
    return expected == found
