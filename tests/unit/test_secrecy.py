"""What people write into wrong places, and what Python prints by itself, is told without secrets."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.config.document import quoted
from sidecar.config.policy import load_file
from sidecar.config.secrets import ClientTokens, KeyRing, parse_key
from sidecar.config.settings import Settings
from sidecar.control.access import parse_roles
from sidecar.core.policy import Upstream
from sidecar.errors import ConfigError
from sidecar.process import watch_loop
from sidecar.proxy.certificate import Certificate
from sidecar.proxy.dial import Egress
from sidecar.secrecy import HIDDEN, MAX_NAME, guarded, hidden, recorded
from sidecar.store.keys import parse_keys
from sidecar.telemetry.spans import connect
from tests.fixtures.canaries import Canaries

KEYS = ["sk-proj-4fA9c51e2D84b06x7Q", "gsk_4fA9c51e2D84b06x7Q", "AIzaSyD4fA9c51e2D84b06x7Q", "hf_AbCdEfGhIjKlMnOpQr"]
BARE = "9f3a71c05de4b8a26f10c7d3"  # 24 characters of no maker
PASSWORD = "the-proxys-password-51b0e7"


@pytest.mark.parametrize("key", [*KEYS, "Bearer abcdef123456", "basic dXNlcjpwYXNz", "eyJhbGciOiJIUzI1NiJ9"])
def test_keys_of_known_shapes_are_hidden(key: str) -> None:
    """SEC-KEYS: alone and inside a text."""
    assert hidden(f"said {key}, twice") == f"said {HIDDEN}, twice"
    assert recorded(key) == recorded(f"models/{key}") == HIDDEN


@pytest.mark.parametrize(
    "name",
    ["gpt-4o-mini-2024-07-18", "ft:gpt-4o:org::AbCdEf12", "meta-llama/Llama-3.1-8B", "us.anthropic.claude-sonnet-4-5-v1:0",
     "my model of last week", "'; DROP TABLE decisions; --", "model@sha256:9f86d081884c7d659a2feaa0c55ad015", "", "skunk-4"],
)  # fmt: skip
def test_names_of_models_are_recorded(name: str) -> None:
    assert recorded(name) == name


def test_a_sentence_is_no_models_name() -> None:
    """SEC-PRIVACY: an app that puts the prompt where the model's name belongs."""
    assert recorded("Please tell me what the heron keeps under the stone") == HIDDEN


def test_a_bare_key_is_hidden_in_what_people_write() -> None:
    assert guarded(f"/run/{BARE}/x") == f"/run/{HIDDEN}/x"
    plain = "OPENAI_API_KEY /var/run/secrets/kubernetes.io/serviceaccount 123456789012345678901234567890"
    assert guarded(plain) == plain
    assert quoted(BARE) == quoted("bob:pw@host") == quoted("http://h/v1?key=x") == "the value"
    assert quoted("abov") == "'abov'"


POLICY = """version: 1
service: bot
upstreams: {{sim: {{dialect: openai, base_url: "{url}", api_key: {key}, price: free}}}}
routes:
  - {{name: s, match: {{models: ["m"]}}, mode: observe, baseline: {{id: b, upstream: sim, model: m}}}}
"""
URL = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize("secret", [KEYS[0], BARE])
@pytest.mark.parametrize(
    ("url", "key"),
    [(URL, "KEY"), (URL, "{from: KEY}"), (URL, "{env: KEY}"), (URL, "{file: KEY}"), (URL, "[KEY]"), (URL, "{KEY: 1}"),
     (URL, "{from: client, value: KEY}"), ("http://bob:KEY@127.0.0.1/v1", "{from: client}"), ("bob:KEY@h", "{from: client}"),
     ("http://127.0.0.1/v1?key=KEY", "{from: client}"), ("KEY", "{from: client}"), ("http://h/KEY /v1", "{from: client}")],
)  # fmt: skip
def test_a_key_in_a_wrong_place_of_a_policy(tmp_path: Path, url: str, key: str, secret: str) -> None:
    """SEC-KEYS: messages go to logs and to /ready, which anybody in the cluster may read."""
    file = tmp_path / "p.yaml"
    file.write_text(POLICY.format(url=url.replace("KEY", secret), key=key.replace("KEY", secret)))
    try:
        loaded = load_file(file, {})
        told = " ".join([*loaded.warnings, *KeyRing({}).problems(loaded.policy.upstreams, 0.0)])
    except ConfigError as error:
        told = str(error)
    assert "p.yaml:3: upstreams.sim" in told or "upstreams.sim: " in told
    assert Canaries({"key": secret.encode()}).leaks(told.encode()) == []


def test_a_variable_of_another_form_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY.format(url=URL, key="{env: not-a-name}"))
    with pytest.raises(ConfigError, match=r"api_key\.env: is not the name of an environment variable"):
        load_file(file, {})


def test_a_variable_that_would_be_a_setting_is_refused(tmp_path: Path) -> None:
    """A process with an unknown SIDECAR_ variable does not start, and a known one is no key of a provider."""
    file = tmp_path / "p.yaml"
    for name in ("SIDECAR_OPENAI_KEY", "SIDECAR_DB"):
        file.write_text(POLICY.format(url=URL, key=f"{{env: {name}}}"))
        with pytest.raises(ConfigError, match=r"p\.yaml:3: upstreams\.sim\.api_key\.env: begins with SIDECAR_"):
            load_file(file, {name: "k"})


@pytest.mark.parametrize("name", ["https_proxy", "observatory_url", "openai_upstream", "listen", "log_level", "drain"])
@pytest.mark.parametrize("text", ["bob:KEY@h", "http://h/?key=KEY", "KEY", "http://bob:KEY@[::1", BARE])
def test_a_key_in_a_wrong_setting(name: str, text: str) -> None:
    """SEC-KEYS: whether it is taken or refused."""
    told, text = "", text.replace("KEY", KEYS[0])
    for environ, given in (({}, [f"{name}={text}"]), ({f"SIDECAR_{name.upper()}": text}, [])):
        try:
            told += repr(Settings.load(environ, None, given)) if name in ("https_proxy", "observatory_url") else ""
            Settings.load(environ, None, given)
        except ConfigError as error:
            told += str(error)
    assert Canaries({"key": KEYS[0].encode(), "bare": BARE.encode()}).leaks(told.encode()) == []


@pytest.mark.parametrize(
    "url", [f"http://bob:{PASSWORD}", f"ftp://bob:{PASSWORD}@h", f"http://bob:{PASSWORD}@[", f"http://h:99{PASSWORD}"]
)
def test_urls_with_passwords_are_refused_without_them(url: str) -> None:
    """SEC-KEYS: a password in the port's place is in the text of Python's own error."""
    for use in (lambda: Egress.parse(url, ()), lambda: connect(url)):
        with pytest.raises(ConfigError) as caught:
            use()
        assert PASSWORD not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_missing_exporter_is_told_without_the_url() -> None:
    with pytest.raises(ConfigError, match="needs `pip install") as caught:
        connect(f"http://bob:{PASSWORD}@h:4317")
    assert PASSWORD not in str(caught.value)


def test_a_key_where_its_file_is_named() -> None:
    spec = Upstream("u", "openai", "http", "127.0.0.1", 1, "", None, None, "file", KEYS[0])
    assert KeyRing({}).problems({"u": spec}, 0.0) == [
        "upstreams.u: [hidden]: cannot be read (FileNotFoundError); nothing is used until it can be read"
    ]


BAD = "canary-line-8d20f1c6b9"


def _roles(file: Path) -> None:
    parse_roles(file.read_bytes())


def _keys(file: Path) -> None:
    parse_keys(file.read_bytes())


def _tls(file: Path) -> None:
    Certificate(file, file)


READERS: dict[str, Callable[[Path], object]] = {
    "roles": _roles,
    "keys": _keys,
    "certificate": _tls,
    "tokens": lambda file: ClientTokens(file).check(0.0),
    "key": lambda file: parse_key(file.read_bytes()),
}
WRONG = [f"{BAD} {BAD}\nno {BAD} is it\n", f"\x07{BAD}\x07", f"{BAD}\xe9{BAD}", f"\n{BAD}\x00"]


@pytest.mark.parametrize("content", WRONG)
@pytest.mark.parametrize("name", READERS)
def test_a_bad_file_of_secrets_is_refused_without_its_content(tmp_path: Path, name: str, content: str) -> None:
    """SEC-KEYS: roles, audit and encryption keys, certificates, tokens of clients, keys of providers."""
    file = tmp_path / "secret"
    file.write_text(content, encoding="latin-1")
    with pytest.raises((ConfigError, ValueError)) as caught:
        READERS[name](file)
    told = f"{caught.value!r} {caught.value.__cause__!r}"
    assert Canaries({"line": BAD.encode()}).leaks(told.encode()) == []


_CRASH = f"""
import gc, logging, threading, sys
from concurrent.futures import Future
from sidecar.process import hush
hush()
def fail(*_):
    raise ValueError("{PASSWORD}")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
class Last:
    __del__ = fail
Last()
future = Future()
future.add_done_callback(fail)
future.set_result(1)
logging.getLogger("library").error("cannot parse %s", "{PASSWORD}")
logging.getLogger("library").info("{PASSWORD}")
fail()
"""


def test_what_python_prints_has_no_text() -> None:
    """SEC-KEYS: BerriAI/litellm#39964 printed a key in a traceback. Threads, destructors, callbacks, libraries' logs and the
    end of the process are told by kind and place."""
    done = subprocess.run([sys.executable, "-c", _CRASH], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert Canaries({"password": PASSWORD.encode()}).leaks((done.stdout + done.stderr).encode()) == []
    place = "ValueError at <string>:7"
    assert done.stderr.splitlines() == [
        f"llm-sidecar: bug in a thread: {place}",
        f"llm-sidecar: bug in a callback: {place}",
        f"llm-sidecar: bug in concurrent.futures: {place}",
        "llm-sidecar: library: error at <string>:17",
        f"llm-sidecar: bug in the process: {place}",
    ]


async def test_a_callback_that_raises_is_a_bug_and_a_broken_connection_is_none() -> None:
    told: list[tuple[str, BaseException]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    undo = watch_loop(loop, lambda where, error: told.append((where, error)))
    failure = ValueError(PASSWORD)
    loop.call_exception_handler({"message": "m", "exception": failure})
    loop.call_exception_handler({"message": "m", "exception": ConnectionResetError()})
    loop.call_exception_handler({"message": "nothing was raised"})
    assert told == [("loop", failure)]
    undo()
    assert loop.get_exception_handler() is before


def test_a_text_in_the_place_of_a_name_is_not_kept() -> None:
    """However it is cut: what is remembered by name stays small."""
    longest = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/".ljust(MAX_NAME, "m")
    assert recorded(longest) == longest
    assert recorded(longest + "m") == HIDDEN
