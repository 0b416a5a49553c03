"""What a real process tells about itself after mixed traffic: metrics, lines, rows, spans, and what it has imported."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from sidecar.clock import monotonic
from sidecar.telemetry.catalogue import BY_NAME, CATALOGUE, PREFIX
from sidecar.telemetry.metrics import MAX_VALUES
from tests.e2e.process import ROOT, Provider, Sidecar, ask, serving
from tests.e2e.rounds import write_policy
from tests.e2e.traffic import Connection, Load, chat
from tests.fixtures.waiting import wait_for

QUICK = ("default:ttft=0.005", "default:output_tokens=8", "slow:ttft=0.05", "slow:itl=0.5", "slow:output_tokens=50")
FAULTS = (
    {"kind": "status", "status": 429, "models": ["limited"]},
    {"kind": "status", "status": 503, "models": ["down"]},
    {"kind": "truncate", "after_tokens": 3, "models": ["cut"]},
    {"kind": "reset_before", "models": ["gone"]},
)
# What the serving process may import, besides the standard library; and what these themselves import.
ALLOWED = frozenset(
    [
        "sidecar",
        "uvloop",
        "httptools",
        "aiohttp",
        "numpy",
        "orjson",
        "msgspec",
        "prometheus_client",
        "structlog",
        "yaml",
        "aiosignal",
        "frozenlist",
        "multidict",
        "yarl",
        "propcache",
        "attr",
        "attrs",
        "idna",
        "aiohappyeyeballs",
        "typing_extensions",
    ]
)
TELL = "import atexit, sys; atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr))"
TELLING = f"{TELL}; from sidecar.cli import main; sys.exit(main())"
OPTIONAL = frozenset({"rich", "pygments", "markdown_it", "mdurl"})  # structlog takes them where tests installed them
NEVER = ("scipy.stats", "pydantic", "opentelemetry", "openai", "anthropic", "genai_prices", "sqlite_utils", "requests")
NEVER += ("sidecar.wire.spokes.chat.spoke", "difflib")


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in prometheus(text)}


def total(text: str, name: str, **labels: str) -> float:
    """The sum of a family's samples that carry these labels."""
    found = families(text).get(PREFIX + name)
    samples = [] if found is None else found.samples
    return sum(
        one.value for one in samples if labels.items() <= one.labels.items() and not one.name.endswith("_created")
    )


async def mixed_run(port: int) -> Counter[str]:
    """Calls that end in every way, 10 of each; how each ended for the client."""
    ends: Counter[str] = Counter()
    for model in ("gpt-4o", "limited", "down", "cut", "gone"):
        connection = Connection(port)
        for number in range(10):
            try:
                reply = await connection.call(chat(f"{model} {number}", model=model, stream=model == "cut"))
                ends[str(reply.status)] += 1
            except OSError:
                ends["broken"] += 1
                await connection.close()
        await connection.close()
    for text in (b"", b"[1", b'{"model": 5}'):
        connection = Connection(port)
        ends[str((await connection.call(text)).status)] += 1
        await connection.close()
    for number in range(10):
        ends["left"] += 1
        connection = Connection(port)
        _, fields = await connection.begin(chat("a long story", model="slow", stream=True))
        if number % 4 == 0:
            await anext(connection.chunks(fields))
        await connection.close()
    return ends


async def _leave_before_head(port: int) -> None:
    connection = Connection(port)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.03):
            await connection.begin(chat("a long story", model="slow"))
    await connection.close()


@contextlib.asynccontextmanager
async def after_a_mixed_run(folder: Path, **settings: object) -> AsyncIterator[tuple[Sidecar, Counter[str]]]:
    """A sidecar that has served the mixed run, and also refused what came over its limit of streams."""
    with serving(folder, *QUICK, faults=FAULTS, **settings) as (sidecar, _):
        ends = await mixed_run(sidecar.port)
        for _ in range(10):
            await _leave_before_head(sidecar.port)
            ends["left"] += 1
        status, _ = await asyncio.to_thread(ask, sidecar.port, "GET", "/nowhere")
        ends[f"local {status}"] += 1
        await asyncio.sleep(0.5)
        yield sidecar, ends


async def test_counters_reconcile(tmp_path: Path) -> None:
    """INC-44: accepted = completed + failed + aborted + shed, nothing is open, and rows, lines and metrics say the same
    of every outcome, as the client saw it."""
    async with after_a_mixed_run(tmp_path, max_streams=40) as (sidecar, ends):
        text = await _with_shed(sidecar)
        outcomes = {name: total(text, "requests", outcome=name) for name in ("completed", "failed", "aborted")}
        rows = sidecar.decisions()
        lines = [json.loads(line) for line in sidecar.request_log.read_text().splitlines()]
    shed = total(text, "shed", cause="overload")
    print({"ends": dict(ends), "outcomes": outcomes, "shed": shed, "accepted": total(text, "accepted")})
    assert shed > 0
    assert total(text, "open_streams") == 0
    assert total(text, "buffered_bytes") == 0
    assert total(text, "accepted") == sum(outcomes.values()) + shed
    assert Counter(row["outcome"] for row in rows) == {name: int(count) for name, count in outcomes.items()}
    assert {line["id"] for line in lines} == {row["id"] for row in rows}
    assert len(lines) == len(rows)
    assert outcomes["aborted"] == ends["left"] + 40, "the forty that filled the limit left too"
    assert total(text, "requests", status_class="4xx", outcome="failed") + total(
        text, "requests", status_class="4xx", outcome="completed"
    ) == total(text, "requests", status_class="4xx")
    assert len([row for row in rows if row["requested_model"] == "limited" and row["status"] == 429]) == 10
    assert len([row for row in rows if row["requested_model"] == "down" and row["status"] == 503]) == 10
    assert {row["error"] for row in rows if row["requested_model"] == "cut"} == {"truncated"}
    assert total(text, "scrape_errors") == 0


async def _with_shed(sidecar: Sidecar) -> str:
    """Fifty streams where forty are allowed, all left; then one scrape, when nothing is open any more."""
    connections = [Connection(sidecar.port) for _ in range(50)]
    answers = await asyncio.gather(*(one.begin(chat("long", model="slow", stream=True)) for one in connections))
    assert Counter(status for status, _ in answers) == {200: 40, 503: 10}
    for one in connections:
        await one.close()
    await asyncio.sleep(0.6)
    return await asyncio.to_thread(sidecar.metrics)


async def test_lines_are_rows(tmp_path: Path) -> None:
    """One line per exchange, and it says what `decisions --json` says, value by value; nulls are left out."""
    async with after_a_mixed_run(tmp_path) as (sidecar, _):
        rows = {row["id"]: row for row in sidecar.decisions()}
        lines = [json.loads(line) for line in sidecar.request_log.read_text().splitlines()]
    assert len(lines) == len(rows) > 50
    for line in lines:
        assert line.pop("event") == "request"
        said = {name: value for name, value in rows[line["id"]].items() if value is not None}
        assert line == said
        assert list(line) == list(said)


async def test_metrics_parse_and_are_documented(tmp_path: Path) -> None:
    """Both formats parse; what is exposed is in the catalogue with its type; the catalogue and the page agree."""
    async with after_a_mixed_run(tmp_path) as (sidecar, _):
        text = await asyncio.to_thread(sidecar.metrics)
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        _, open_text = await asyncio.to_thread(ask, sidecar.health_port, "GET", "/metrics", headers=accept)
    exposed = {name: family for name, family in families(text).items() if not name.startswith(PREFIX + "process_")}
    parsed = openmetrics(open_text.decode())  # type: ignore[no-untyped-call] # it has no types
    assert {family.name for family in parsed} >= set(exposed)
    unknown = {name for name in exposed if name.removeprefix(PREFIX) not in BY_NAME}
    assert unknown == set()
    assert {n: f.type for n, f in exposed.items()} == {n: BY_NAME[n.removeprefix(PREFIX)].kind for n in exposed}
    page = (ROOT / "docs" / "metrics.md").read_text()
    named = set(re.findall(rf"^\| `({PREFIX}\w+)` \|", page, re.MULTILINE))
    assert named == {metric.full_name for metric in CATALOGUE}
    used = set(re.findall(rf"{PREFIX}\w+", page)) - {PREFIX, f"{PREFIX}process_"}
    suffixes = ("_bucket", "_sum", "_count")
    bare = {next((name.removesuffix(s) for s in suffixes if name.endswith(s)), name) for name in used}
    assert bare <= named


async def test_every_metric_exists(tmp_path: Path) -> None:
    """No family of the catalogue is only a promise: each is exposed by a process with a policy and mixed traffic, apart
    from those that count what did not happen here or need a telemetry endpoint."""
    absent_here = {"label_overflow", "scrape_errors", "quality", "spans_exported", "spans_dropped", "points_untold"}
    absent_here |= {"errands", "errand_cost_usd", "validator_failures"}  # no judge, no shadow, no answer that fails
    absent_here |= {"fallbacks"}  # the policy has none
    absent_here |= {metric.name for metric in CATALOGUE if metric.name.startswith("worker")}  # one process
    with (
        Provider(tmp_path, *QUICK, faults=FAULTS) as provider,
        Sidecar(tmp_path, provider.url, policies=write_policy(tmp_path, provider)) as sidecar,
    ):
        await mixed_run(sidecar.port)
        await asyncio.sleep(0.5)
        exposed = set(families(await asyncio.to_thread(sidecar.metrics)))
    absent_here |= {metric.name for metric in CATALOGUE if metric.name.startswith("inject_")}  # another process
    missing = {metric.name for metric in CATALOGUE if PREFIX + metric.name not in exposed} - absent_here
    assert missing == set()


async def test_random_model_names_stay_bounded(tmp_path: Path) -> None:
    """GW-42: 600 invented models make at most MAX_VALUES values and `other`; the policy's arms keep their names; a
    scrape stays small."""
    with (
        Provider(tmp_path, *QUICK) as provider,
        Sidecar(tmp_path, provider.url, policies=write_policy(tmp_path, provider)) as sidecar,
    ):
        connection = Connection(sidecar.port)
        for number in range(600):
            await connection.call(chat("x", model=f'model-{number}-"\n\\'))
        for number in range(40):
            await connection.call(chat("y", model="gpt-4o"), {"x-sidecar-session": str(number)})
        await connection.close()
        await asyncio.sleep(0.3)
        text = await asyncio.to_thread(sidecar.metrics)
    models = {one.labels["model"] for one in families(text)[f"{PREFIX}requests"].samples}
    assert MAX_VALUES <= len(models) <= MAX_VALUES + 3  # `other`, and the policy's two, which are beyond the cap
    assert {"other", "gpt-4o"} <= models
    assert total(text, "requests") == 640
    assert total(text, "label_overflow") > 0
    assert len(text) < 4 * 2**20


# ---- spans

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector:
    """An OTLP collector: counts the posts, keeps the bodies of traces."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    outer.bodies.append(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join(5)
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    one.start()
    yield one
    one.stop()


async def test_spans_arrive(tmp_path: Path, collector: Collector) -> None:
    """SEC-PRIVACY: one span for each exchange, within some seconds, with names of the gen_ai conventions and no content."""
    with serving(tmp_path, *QUICK, observatory_url=collector.url) as (sidecar, _):
        connection = Connection(sidecar.port)
        for number in range(20):
            traced = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"} if number < 5 else {}
            await connection.call(chat("the secret of the prompt", stream=number % 2 == 0), traced)
        await connection.close()
        assert await asyncio.to_thread(wait_for, lambda: bool(collector.bodies), 15.0)
        exported = await asyncio.to_thread(wait_for, lambda: total(sidecar.metrics(), "spans_exported") == 20, 15.0)
        assert exported, sidecar.metrics()
    text = b"".join(collector.bodies)
    assert text.count(b"chat gpt-4o") == 20
    assert text.count(bytes.fromhex(TRACE)) == 5, "the caller's trace goes on"
    assert b"gen_ai.request.model" in text
    assert b"the secret of the prompt" not in text
    assert b"sk-of-the-client" not in text


async def test_a_collector_that_is_down_costs_spans_only(tmp_path: Path) -> None:
    """Traffic is unaffected, the loss is counted, and the process still ends in time."""
    with serving(tmp_path, *QUICK, observatory_url="http://127.0.0.1:9") as (sidecar, _):
        load = Load(sidecar.port, connections=4)
        async with load.running():
            await asyncio.sleep(3.0)
        assert (load.failed, load.broken) == ([], {})
        assert load.p99_s() < 0.5, "a request waited for the collector"
        begun = monotonic()
        assert sidecar.stop() == 0
        print("p99", load.p99_s(), "stop took", monotonic() - begun)
        assert monotonic() - begun < 10.0


# ---- what a serving process has imported


async def test_the_serving_process_imports_only_what_it_may(tmp_path: Path) -> None:
    """SEC-SUPPLY: with a current schema, a policy and traffic a process has nothing else in sys.modules."""
    with Provider(tmp_path, *QUICK) as provider:
        policies = write_policy(tmp_path, provider)
        with Sidecar(tmp_path, provider.url, policies=policies) as first:  # makes the schema
            assert wait_for(lambda: first.db.exists() and total(first.metrics(), "store_lag_rows") == 0, 5)
            await asyncio.sleep(0.5)
            assert first.stop() == 0
        with Sidecar(tmp_path, provider.url, policies=policies, db=first.db, program=["-c", TELLING]) as sidecar:
            connection = Connection(sidecar.port)
            reply = await connection.call(chat("hello", stream=True))
            await connection.close()
            ask(sidecar.port, "POST", "/_sidecar/v1/feedback", body={"id": reply.decision, "score": 1})
            sidecar.metrics()
            sidecar.admin("GET", "/api/v1/status")
            assert sidecar.stop() == 0
            told = next(line for line in sidecar.output().splitlines() if line.startswith("MODULES "))
    imported = set(told.split()[1:])
    assert {"sidecar.app", "sidecar.store.writer", "uvloop"} <= imported
    assert {name for name in imported if name.startswith(NEVER)} == set()
    bare = await asyncio.to_thread(_bare)
    roots = {name.partition(".")[0] for name in imported - bare}
    foreign = {root for root in roots if root not in sys.stdlib_module_names and root not in ALLOWED | OPTIONAL}
    assert {root for root in foreign if not root.startswith(("_cython_", "cython_runtime"))} == set()  # no modules


def _bare() -> set[str]:
    """The modules of an interpreter that has done nothing: site, editable installs."""
    done = subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, timeout=20, check=True)
    return set(done.stderr.split())
