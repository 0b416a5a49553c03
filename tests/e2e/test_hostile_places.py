"""Calls that name places (Azure, Vertex, Bedrock, Cohere, Gemini), and calls that are translated: no field of any chooses
the host, and none but its own segment of the path; what goes up is one well-formed request to the policy's upstream."""

import itertools
import re
from collections.abc import Iterator
from urllib.parse import quote

import orjson
import pytest

from tests.e2e.hostile import Recorder, Request, connection, read_all, send, statuses
from tests.e2e.process import LOOPBACK, Sidecar

POLICY = """
version: 1
upstreams:
  azure: {{dialect: openai, provider: azure-deployments, base_url: "{url}/az", api_key: {{env: HELD}}, price: free}}
  vertex: {{dialect: gemini, provider: vertex, base_url: "{url}/v1/projects/p/locations/l/publishers/google",
           api_key: {{env: HELD}}, price: free}}
  cohere: {{dialect: cohere, base_url: "{url}/co", api_key: {{env: HELD}}, price: free}}
  bedrock: {{dialect: bedrock, base_url: "{url}/br", api_key: {{env: AWS}}, price: free}}
  gemini: {{dialect: gemini, base_url: "{url}/ge", api_key: {{env: HELD}}, price: free}}
routes:
  - {{name: cohere, match: {{models: ["to-cohere"]}}, baseline: {{id: c, upstream: cohere, model: command-a}},
     virtual: [to-cohere]}}
  - {{name: bedrock, match: {{models: ["to-bedrock"]}}, virtual: [to-bedrock],
     baseline: {{id: b, upstream: bedrock, model: "amazon.nova-pro-v1:0"}}}}
  - {{name: gemini, match: {{models: ["to-gemini"]}}, baseline: {{id: g, upstream: gemini, model: gemini-2.5-flash}},
     virtual: [to-gemini]}}
  - {{name: vertex, match: {{models: ["to-vertex"]}}, baseline: {{id: v, upstream: vertex, model: gemini-2.5-flash}},
     virtual: [to-vertex]}}
  - {{name: azure, match: {{models: ["to-azure"]}}, baseline: {{id: a, upstream: azure, model: gpt-4o}},
     virtual: [to-azure]}}
"""
SECRET = "held-canary"
# Where each upstream's own requests may go.
PREFIXES = {
    "azure": rb"/az/openai/.*",
    "vertex": rb"/v1/projects/p/locations/l/.*",
    "cohere": rb"/co/v2/.*",
    "bedrock": rb"/br/model/.*",
    "gemini": rb"/ge/v1beta/.*",
}


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as one:
        yield one


@pytest.fixture(scope="module")
def other() -> Iterator[Recorder]:
    """The server that an attacker would like to be called."""
    with Recorder() as one:
        yield one
        assert one.connections == 0, "the other server was called"


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("places")
    (folder / "policies").mkdir()
    (folder / "policies" / "p.yaml").write_text(POLICY.format(url=recorder.url))
    environ = {"HELD": SECRET, "AWS": f"AKIDEXAMPLE:{SECRET}"}
    with Sidecar(folder, "http://127.0.0.1:9", environ=environ, policies=folder / "policies") as one:
        assert not one.ready()[1]["notes"], one.ready()
        yield one
        assert one.stop() == 0
        assert "Traceback" not in one.output()
        assert SECRET not in one.output()
    assert not recorder.broken


def evil_names(port: int) -> list[str]:
    """Names of models and deployments that want to be another place."""
    there = f"{LOOPBACK}:{port}"
    return [
        f"http://{there}/", f"//{there}/x", f"@{there}", f"x@{there}/", f"\\\\{there}\\x", f"x.{there}#", "..", "../..",
        "../../admin", "..%2f..%2fadmin", "%2e%2e/%2e%2e", "%252e%252e%252f", "..;/..;/", ".", "x/../../../y", "x?api-key=1",
        "x#y", "x y", "x\r\nHost: evil.example\r\nX-A: b", "x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "x\x00y",
        "x HTTP/1.1", "\u2028x", "\uff0e\uff0e\uff0f", "x\ud800", "%0d%0aX: y", "x:generateContent?", "x" * 5000, "", " ",
        "arn:aws:bedrock:us-east-1:1:x/../../y", "${jndi:ldap://evil}", "{{model}}", "{model}",
    ]  # fmt: skip


def ask(sidecar: Sidecar, target: bytes, body: bytes, *lines: bytes) -> tuple[list[int], bytes]:
    """Statuses and bytes of what comes for one POST, however odd its target is."""
    head = (
        b"POST " + target + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    with connection(sidecar.port) as sock:
        send(sock, head + b"".join(lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = read_all(sock)
    return statuses(answer), answer


def in_place(request: Request, port: int) -> None:
    """The request went to one of the policy's places, with nothing that climbs, and with one key: the one held for it."""
    assert request.values(b"host") == [b"%s:%d" % (LOOPBACK.encode(), port)], request
    assert any(re.fullmatch(one, request.target) for one in PREFIXES.values()), request
    path = request.target.partition(b"?")[0]
    segments = re.split(rb"/|%2f|%5c|\\", re.sub(rb"%2e", b".", path, flags=re.IGNORECASE), flags=re.IGNORECASE)
    assert not {b".", b".."} & {one.split(b";")[0] for one in segments}, request
    assert not [value for name, value in request.fields if b"client-canary" in value and name != b"x-mine"], request


PATHS = (
    "/openai/deployments/{}/chat/completions?api-version=1",
    "/openai/deployments/{}/embeddings",
    "/openai/{}",
    "/v1/projects/{}/locations/x/publishers/google/models/m:generateContent",
    "/v1/projects/x/locations/{}/publishers/google/models/m:generateContent",
    "/v1/projects/x/locations/y/publishers/{}/models/m:rawPredict",
    "/v1/projects/x/locations/y/publishers/google/models/{}:generateContent",
    "/v1/publishers/google/models/{}:streamGenerateContent?alt=sse",
    "/v1beta1/projects/{}/locations/x/endpoints/openapi/chat/completions",
    "/model/{}/converse",
    "/model/{}/invoke",
    "/v2/{}",
)


@pytest.mark.parametrize("written", ["raw", "quoted", "quoted twice"])
def test_names_in_paths_stay_in_their_place(
    sidecar: Sidecar, recorder: Recorder, other: Recorder, written: str
) -> None:
    """SEC-SSRF, FID-21: each place's path with names that want to be another host, path, field or request, as bytes, quoted
    and quoted twice: refused, or one request below the upstream's own prefix with the held key."""
    recorder.take()
    sent = 0
    for path, name in itertools.product(PATHS, evil_names(other.port)):
        text = name.encode("utf-8", "surrogatepass")
        for _ in range(("raw", "quoted", "quoted twice").index(written)):
            text = quote(text, safe="").encode()
        told, answer = ask(
            sidecar, path.encode().replace(b"{}", text), b'{"contents":[]}', b"Authorization: Bearer client-canary\r\n"
        )
        seen = recorder.take()
        assert (len(told), len(seen)) in ((1, 0), (1, 1)), (path, name, told, seen)
        assert (told == [200]) == bool(seen), (path, name, told, answer)
        assert SECRET.encode() not in answer
        for one in seen:
            in_place(one, recorder.port)
            assert b"smuggled" not in one.target or b"%" in one.target, one
        sent += len(seen)
    assert sent > 20
    assert not recorder.broken


FIELDS = (
    "api_base", "base_url", "endpoint", "host", "url", "azure_endpoint", "api_host", "custom_llm_provider", "deployment_id",
    "aws_bedrock_runtime_endpoint", "vertex_location", "vertex_project", "region", "proxy", "callback_url", "webhook",
)  # fmt: skip  # what other gateways took from bodies
HEADERS = (
    "X-Forwarded-Host", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "X-Host", "X-Goog-User-Project", "api-base",
    "x-amz-host", "x-portkey-custom-host", "helicone-target-url", "x-sidecar-upstream", "x-litellm-api-base",
)  # fmt: skip


@pytest.mark.parametrize("arm", ["cohere", "bedrock", "gemini", "vertex", "azure"])
def test_no_field_of_a_translated_call_names_a_host(
    sidecar: Sidecar, recorder: Recorder, other: Recorder, arm: str
) -> None:
    """SEC-SSRF: members, fields and links that name another server, in calls that are said in another format: it is never
    called, nothing is fetched, and the client's key does not go to the arm."""
    recorder.take()
    url = f"http://{LOOPBACK}:{other.port}/x"
    image = {"type": "image_url", "image_url": {"url": url}}
    messages = [{"role": "user", "content": [{"type": "text", "text": url}, image]}]
    plain = [{"role": "user", "content": url}]
    bodies = [{"model": f"to-{arm}", "messages": plain, name: url} for name in FIELDS]
    bodies += [
        {"model": f"to-{arm}", "messages": messages},
        {"model": f"to-{arm}", "messages": plain, "user": "\r\nX: y"},
    ]
    lines = [f"{name}: {url}\r\n".encode() for name in HEADERS]
    reached = 0
    for body in bodies:
        told, answer = ask(
            sidecar, b"/v1/chat/completions", orjson.dumps(body), *lines, b"Authorization: Bearer client-canary\r\n"
        )
        seen = recorder.take()
        assert (len(told), len(seen)) in ((1, 0), (1, 1)), (body, told)
        assert SECRET.encode() not in answer
        for one in seen:
            in_place(one, recorder.port)
            assert re.fullmatch(PREFIXES[arm], one.target), one
        reached += len(seen)
    assert reached, "no call reached the arm"


def test_names_in_bodies_stay_names(sidecar: Sidecar, recorder: Recorder, other: Recorder) -> None:
    """SEC-SSRF: a model's name that is put into a path by us (Azure's deployments) is one segment of it, or refused."""
    recorder.take()
    for name in evil_names(other.port):
        body = b'{"model":%b,"messages":[]}' % orjson.dumps(name.replace("\ud800", "")).replace(b"\\u", b"\\u")
        for target in (b"/openai/v1/chat/completions", b"/openai/v1/responses", b"/openai/v1/embeddings"):
            told, _ = ask(sidecar, target, body)
            seen = recorder.take()
            assert (len(told), len(seen)) in ((1, 0), (1, 1)), (name, told, seen)
            for one in seen:
                in_place(one, recorder.port)
    assert not recorder.broken
