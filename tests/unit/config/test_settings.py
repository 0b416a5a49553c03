"""Settings: precedence, spellings, rules of the modes, and all problems told at once."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.app import Sidecar
from sidecar.config.settings import Settings
from sidecar.errors import ConfigError


def problems(environ: dict[str, str], file: Path | None = None, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Settings.load(environ, file, overrides)
    return str(caught.value).splitlines()


def test_nothing_configured() -> None:
    """With no configuration at all the contract's defaults hold."""
    settings = Settings.load({})
    assert settings == Settings()
    assert settings.listen == (("127.0.0.1", 9090), ("::1", 9090))
    assert settings.health_listen == (("0.0.0.0", 9091), ("::", 9091))
    assert settings.admin_listen == (("127.0.0.1", 9092),)
    assert len(settings.listeners) == 5
    assert (settings.connect_timeout_s, settings.first_byte_timeout_s, settings.idle_timeout_s) == (5.0, 600.0, 300.0)
    assert (settings.max_body_bytes, settings.route_body_max_bytes) == (64 * 2**20, 8 * 2**20)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("SERVICE_ID", "bot", "service", "bot"),
        ("MODE", "daemon", "mode", "daemon"),
        ("SIDECAR_LISTEN", "[::1]:1,127.0.0.1:2", "listen", (("::1", 1), ("127.0.0.1", 2))),
        ("SIDECAR_HEALTH_LISTEN", ":1", "health_listen", (("0.0.0.0", 1), ("::", 1))),
        ("SIDECAR_ADMIN_LISTEN", "", "admin_listen", (("127.0.0.1", 9092),)),
        ("SIDECAR_DB", "/d/x.db", "db", Path("/d/x.db")),
        ("SIDECAR_POLICIES", "/p", "policies", Path("/p")),
        ("SIDECAR_ADMIN_TOKEN_FILE", "/t", "admin_token_file", Path("/t")),
        ("SIDECAR_PRICES", "/r.json", "prices", Path("/r.json")),
        ("SIDECAR_PRIORS", "/q", "priors", Path("/q")),
        ("SIDECAR_LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("OBSERVATORY_URL", "http://c:4317", "observatory_url", "http://c:4317"),
        ("GOVERNANCE_URL", "http://g", "governance_url", "http://g"),
        ("REGISTRY_URL", "http://r", "registry_url", "http://r"),
        ("REDIS_URL", "redis://:pw@r:6379/0", "redis_url", "redis://:pw@r:6379/0"),
        ("POSTGRES_URL", "postgres://u:p@h/d", "postgres_url", "postgres://u:p@h/d"),
        ("NODE_NAME", "n1", "node_name", "n1"),
        ("OPTIMIZATION_INTERVAL", "30s", "optimization_interval_s", 30.0),
        ("HTTPS_PROXY", "proxy:3128", "https_proxy", "http://proxy:3128"),
        ("NO_PROXY", "a, .b,", "no_proxy", ("a", ".b")),
        ("OPENAI_UPSTREAM", "http://127.0.0.1:1/v1", "openai_upstream", "http://127.0.0.1:1/v1"),
        ("ANTHROPIC_UPSTREAM", "http://x", "anthropic_upstream", "http://x"),
        ("GEMINI_UPSTREAM", "http://x", "gemini_upstream", "http://x"),
        ("SIDECAR_CONNECT_TIMEOUT", "1s", "connect_timeout_s", 1.0),
        ("SIDECAR_CONNECT_TIMEOUT_S", "2", "connect_timeout_s", 2.0),
        ("SIDECAR_MAX_BODY", "128MiB", "max_body_bytes", 128 * 2**20),
        ("SIDECAR_SERVICE", "bot", "service", "bot"),
        ("SIDECAR_HTTPS_PROXY", "http://p:1", "https_proxy", "http://p:1"),
    ],
)
def test_environment(variable: str, text: str, field: str, value: object) -> None:
    """Every variable of the contract, and SIDECAR_<FIELD> for the rest; empty means not set."""
    assert getattr(Settings.load({variable: text}), field) == value


def test_every_field_has_a_variable_and_a_key() -> None:
    """No setting can be reached by one way only."""
    spare = {"mode": "sidecar", "log_level": "info", "allow_non_loopback": "0"}
    for field in dataclasses.fields(Settings):
        text = spare.get(field.name, "")
        assert Settings.load({f"SIDECAR_{field.name}".upper(): text}) is not None
        assert field.metadata["why"], field.name


def test_precedence(tmp_path: Path) -> None:
    """--set wins over the environment, that over the file, that over the default; the last --set of a key wins."""
    file = tmp_path / "s.yaml"
    file.write_text("service: from-file\nlog_level: error\ndrain: 3s\n")
    environ = {"SERVICE_ID": "from-env", "SIDECAR_LOG_LEVEL": "warning"}
    settings = Settings.load(environ, file, ["service=a", "service_id=from-set"])
    assert (settings.service, settings.log_level, settings.drain_s) == ("from-set", "warning", 3.0)
    assert settings.idle_timeout_s == Settings().idle_timeout_s


def test_lower_case_proxy_wins() -> None:
    """curl's and the SDKs' order for the proxy variables."""
    environ = {"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:1"}
    assert Settings.load(environ).https_proxy == "http://lower:1"


def test_file_with_sections_lists_and_names_of_the_contract(tmp_path: Path) -> None:
    """`store: {raw: 7d}` is store_raw, lists may be YAML lists, and the environment's names are keys too."""
    file = tmp_path / "s.yaml"
    file.write_text(
        "SERVICE_ID: bot\nstore: {max_bytes: 1GiB, raw: 14d}\nno_proxy: [a, b]\nSIDECAR_DB: /d\nredis_url: null\n"
    )
    settings = Settings.load({}, file)
    assert (settings.service, settings.store_max_bytes, settings.store_raw_s) == ("bot", 2**30, 14 * 86400.0)
    assert (settings.no_proxy, settings.db, settings.redis_url) == (("a", "b"), Path("/d"), None)


def test_what_has_no_effect_is_said() -> None:
    """Who sets REDIS_URL must not believe that pods share what they learn; the value may be a secret."""
    settings = Settings.load(
        {"REDIS_URL": "redis://:pw@r", "POSTGRES_URL": "postgres://u:pw@h/d"}, None, ["request_log=off"]
    )
    told = Sidecar(settings, {}).readiness().notes
    assert [note.split(" is set, and has no effect")[0] for note in told] == [
        "settings: redis_url",
        "settings: postgres_url",
    ]
    assert "pw" not in "".join(told)
    assert Settings().notes() == []


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    """A file of comments only is fine."""
    file = tmp_path / "s.yaml"
    file.write_text("# nothing\n")
    assert Settings.load({}, file) == Settings()


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    """Each says where, what and how to fix."""
    file = tmp_path / "s.yaml"
    file.write_text("drain: soon\nservce: x\nlisten: a:1\ndrain_s: 5s\nservice: a\n- b\n")
    assert "is not valid YAML" in problems({}, file)[0]
    file.write_text("drain: soon\nservce: x\nlisten: a:1\ndrain_s: 5s\n")
    told = problems({"MODE": "prod", "SIDECAR_POLICYS": "/p"}, file, ("x", "idle=1s", "drian=1s"))
    assert any(line.startswith(f"{file}:2: servce: is not a setting; did you mean 'service'?") for line in told)
    assert any(line.startswith(f"{file}:4: drain_s: is set twice") for line in told)
    assert any(line.startswith(f"{file}:1: drain: 'soon' is not a duration; write") for line in told)
    assert any("listen: 'a:1' is not a listen address" in line for line in told)
    assert "environment: SIDECAR_POLICYS: is not a setting; did you mean 'SIDECAR_POLICIES'?" in told
    assert any(line.startswith("environment: MODE: 'prod' is not one of") for line in told)
    assert "--set x: has no value; write --set key=value" in told
    assert any(line.startswith("--set drian: is not a setting; did you mean 'drain'?") for line in told)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing file, bytes that are no text, and a file that is no map."""
    assert "cannot be read (FileNotFoundError)" in problems({}, tmp_path / "none")[0]
    file = tmp_path / "s.yaml"
    file.write_bytes(b"\xff\xfe\xff")
    assert "cannot be read (UnicodeDecodeError)" in problems({}, file)[0]
    file.write_text("[1, 2]")
    assert f"{file}:1: (file): is not a map" in problems({}, file)[0]
    for odd in ("{a: b}", "[a]", "null"):
        file.write_text(f"db: x\nno_proxy: [{odd}, c]\n")
        assert f"{file}:2: no_proxy: is a list of more than plain values" in problems({}, file)[0]
    file.write_text("servce: {}\nstore: {raww: {}}\ndb: {}\n")
    assert [told.removeprefix(f"{file}:") for told in problems({}, file)] == [
        "1: servce: is not a setting; did you mean 'service'?",
        "2: store.raww: is not a setting; did you mean 'store_raw'?",
        "3: db: is an empty map; write a value, or remove the key",
    ]


def test_variables_that_kubernetes_adds_are_not_ours() -> None:
    """A Service called `sidecar` must not keep the sidecar from starting."""
    environ = {
        "SIDECAR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_METRICS_SERVICE_PORT_HTTP": "1",
        "SIDECAR_PORT": "tcp://10.0.0.1:9090",
        "SIDECAR_PORT_9090_TCP_ADDR": "10.0.0.1",
    }
    assert Settings.load(environ) == Settings()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SIDECAR_LISTEN": "0.0.0.0:9090"}, "SIDECAR_LISTEN: 0.0.0.0 can be reached from outside the pod; "),
        ({"SIDECAR_LISTEN": " , "}, "SIDECAR_LISTEN: names no address; "),
        ({"SIDECAR_ADMIN_LISTEN": "127.0.0.1:9091"}, "ADMIN_LISTEN: port 9091 is also taken by health_listen; "),
        ({"SIDECAR_HEALTH_LISTEN": "[::1]:9090"}, "SIDECAR_HEALTH_LISTEN: port 9090 is also taken by listen; "),
        ({"SIDECAR_TLS_CERT": "/c"}, "SIDECAR_TLS_CERT: stands alone; "),
        ({"SIDECAR_TLS_KEY": "/c"}, "SIDECAR_TLS_KEY: stands alone; "),
        ({"SIDECAR_MAX_BODY": "1MiB"}, "default of route_body_max_bytes: is above max_body_bytes; "),
        ({"SIDECAR_MAX_BUFFERED": "1MiB"}, "default of route_body_max_bytes: is above max_buffered_bytes; "),
        ({"SIDECAR_DRAIN_IDLE": "1m"}, "SIDECAR_DRAIN_IDLE: is above drain_s; "),
        ({"SIDECAR_BREAKER_MAX_EJECTION": "1s"}, "SIDECAR_BREAKER_MAX_EJECTION: is below breaker_ejection_s; "),
        ({"SIDECAR_BREAKER_FAILURE_RATE": "1.5"}, "SIDECAR_BREAKER_FAILURE_RATE"),
        ({"SIDECAR_CONCURRENCY_LIMIT": "on"}, "SIDECAR_CONCURRENCY_LIMIT"),
        ({"SIDECAR_MEMORY_LIMIT": "1MiB"}, "SIDECAR_MEMORY_LIMIT"),
        ({"SERVICE_ID": "a b"}, "SERVICE_ID: 'a b' is not a usable name; "),
        ({"SIDECAR_IDLE_TIMEOUT": "0"}, "SIDECAR_IDLE_TIMEOUT: '0' is outside 1ms..24h; "),
        ({"SIDECAR_MAX_HEAD": "1GiB"}, "SIDECAR_MAX_HEAD: '1GiB' is outside 1KiB..1MiB; "),
        ({"REDIS_URL": "redis"}, "REDIS_URL: 'redis' is not a URL; "),
        ({"HTTPS_PROXY": "socks5://x"}, "HTTPS_PROXY: 'socks5://x' is not a proxy URL; "),
        ({"SIDECAR_ALLOW_NON_LOOPBACK": "maybe"}, "'maybe' is neither true nor false; "),
    ],
)  # fmt: skip
def test_what_cannot_be(environ: dict[str, str], message: str) -> None:
    """Values that are refused by themselves or beside another."""
    shown = [line.replace("the value", repr(next(iter(environ.values())))) for line in problems(environ)]
    assert any(message in line for line in shown), shown


def test_modes() -> None:
    """A sidecar listens on loopback unless allowed otherwise; the other modes listen on all addresses."""
    everywhere = (("0.0.0.0", 9090), ("::", 9090))
    assert Settings.load({"MODE": "standalone"}).listen == everywhere
    assert Settings.load({"MODE": "daemon", "SIDECAR_LISTEN": "localhost:1"}).listen == (("127.0.0.1", 1), ("::1", 1))
    allowed = {"SIDECAR_LISTEN": "0.0.0.0:9090", "SIDECAR_ALLOW_NON_LOOPBACK": "1"}
    assert Settings.load(allowed).listen == (("0.0.0.0", 9090),)
    assert Settings.load({"SIDECAR_LISTEN": "localhost:0", "SIDECAR_HEALTH_LISTEN": "localhost:0"}).listen[0][1] == 0


def test_passwords_are_shown_nowhere() -> None:
    """URLs that can hold a password are neither in the repr nor in a message."""
    secret = "hunter2"
    urls = {
        "REDIS_URL": f"redis://:{secret}@r",
        "POSTGRES_URL": f"pg://u:{secret}@h/d",
        "HTTPS_PROXY": f"http://u:{secret}@p:1",
    }
    assert secret not in repr(Settings.load(urls))
    broken = {name: f"{url} x" for name, url in urls.items()} | {"OPENAI_UPSTREAM": f"https://u:{secret}@h"}
    told = problems(broken)
    assert len(told) == 4
    assert secret not in "".join(told)


@given(
    st.dictionaries(
        st.sampled_from(["MODE", "SIDECAR_LISTEN", "SIDECAR_DRAIN", "SIDECAR_X", "NO_PROXY"]), st.text(max_size=20)
    ),
    st.lists(st.text(max_size=20), max_size=3),
)
def test_any_text_is_read_or_refused(environ: dict[str, str], overrides: list[str]) -> None:
    """No text makes another exception than ConfigError."""
    try:
        settings = Settings.load(environ, None, overrides)
    except ConfigError as error:
        told = str(error)
    else:
        told = f"listening; {settings.listen}"
    assert "; " in told
