"""Loading policies: the contract's example, those of policies/, folders, services, versions, warnings."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.policy import Loaded, default_upstreams, load_file, load_policies, load_text
from sidecar.config.settings import Settings
from sidecar.core.policy import NO_POLICY, FlatPrice, Guardrail, Match, Objective, RolloutSpec
from sidecar.core.rollout import rollout_id_of
from sidecar.errors import ConfigError

OURS = sorted((Path(__file__).parents[3] / "policies").glob("*.y*ml"))
HEAD = """version: 1
service: bot
upstreams:
  openai: {dialect: openai, base_url: "https://api.openai.com/v1"}
"""
ROUTE = """routes:
  - name: r
    baseline: {id: base, upstream: openai, model: gpt-4o}
"""


def load(text: str, **environ: str) -> Loaded:
    return load_text(text, Path("p.yaml"), environ)


def warned(text: str, **environ: str) -> str:
    return "\n".join(load(text, **environ).warnings)


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.stem)
def test_our_policies_load_without_warnings(file: Path) -> None:
    """What a newcomer copies is right."""
    loaded = load_file(file, {})
    assert loaded.warnings == ()
    assert loaded.policy.routes


def test_our_policies_are_found() -> None:
    """The list above is not empty by accident."""
    assert {"observe-only", "canary-new-model", "optimize-with-ceilings"} <= {file.stem for file in OURS}


def test_the_example_of_the_contract(shared: Path) -> None:
    """The policy of the contract loads exactly as it stands there, and every key arrives."""
    found = re.search(r"### 2\.5.*?```yaml\n(.*?)```", (shared / "DESIGN.md").read_text(), re.DOTALL)
    assert found
    loaded = load(found[1])
    policy, route = loaded.policy, loaded.policy.routes[0]
    assert (policy.service, policy.replicas, [rule.id for rule in policy.rules]) == (
        "customer-support-bot",
        1,
        ["cost-daily-limit", "gdpr"],
    )
    assert (policy.upstreams["openai"].prefix, policy.upstreams["openai"].provider) == ("/v1", "openai")
    assert (policy.upstreams["claude"].key, policy.upstreams["claude"].key_ref) == (
        "file",
        "/var/run/secrets/anthropic",
    )
    assert route.match == Match(models=("gpt-4o", "auto"))
    assert [arm.id for arm in route.all_arms] == ["gpt-4o", "mini", "haiku"]
    assert route.arms[1].params == (("temperature", b"0.3"),)
    assert route.objective == Objective("cost", 0.05, 0.6, 0.3, 0.1)
    limits = (
        Guardrail("error_rate", 1.5),
        Guardrail("ttft_p95", 1.2),
        Guardrail("cost", 1.2),
        Guardrail("quality", loss=0.05),
    )
    assert route.rollout == RolloutSpec(guardrails=limits)
    assert route.fallback is not None
    assert (route.fallback.arms, route.fallback.on, route.fallback.max) == (("gpt-4o",), ("connect", "429", "5xx"), 1)
    assert route.budget is not None
    assert (route.budget.per_request_nusd, route.budget.daily_nusd) == (100_000_000, 1000 * 10**9)
    assert (route.budget.monthly_nusd, route.budget.on_exceeded) == (20_000 * 10**9, "cheapest")
    limit = route.thresholds[0]
    assert (limit.above, limit.below, limit.window_s, limit.action, limit.arm) == (2.0, None, 300.0, "route_to", "mini")
    told = "\n".join(loaded.warnings)
    assert "model.region is not known of support/gpt-4o" in told
    assert "tag 'region'" in told


def test_every_spelling_arrives() -> None:
    """Prices, keys, matches, params, limits below, parts that the example does not use."""
    text = """version: 1
upstreams:
  own: {dialect: openai, base_url: "http://10.0.0.9:8000/x/v1/",
    price: {input_mtok: 0.15, output_mtok: "0.6", cache_read_mtok: 0.075}, usage: never, ca_file: /ca, provider: gemini}
  free: {dialect: openai, base_url: "http://10.0.0.9:8000", price: free, api_key: {env: KEY}}
  far: {dialect: gemini, base_url: "https://generativelanguage.googleapis.com", api_key: {file: /k}}
routes:
  - name: r
    match: {models: "gpt-*", paths: [/v1/chat/*], tags: {team: "7"}, tenant: acme}
    virtual: [gpt-auto]
    mode: optimize
    baseline: a
    arms:
      - {id: a, upstream: own, model: 4.10}
      - {id: b, upstream: free, model: m, params: {stop: ["x", 1, 1.5, true, null, {k: on}], seed: 2024-01-01},
         facts: {region: EU, size: 7}}
    objective: {minimize: latency, weights: {cost: 1}}
    rollout: {promote: {require: non_inferior, margin: 3%}, guardrails: {latency_p95: 2x, gave_up: off}, false_rollback: 4%}
    budget: {per_request_usd: 1, daily_usd: 10, monthly_usd: 100, on_exceeded: deny}
    quality: {validators: [empty], feedback: no, min_samples: 0}
    thresholds:
      - {name: q, metric: quality, below: 80%, window: 10m, severity: critical, arm: b}
      - {name: c, metric: cost_per_request, above: 0.02, severity: medium, min_samples: 5, recover: 0.5}
rules:
  - {id: eu, when: "model.region != 'EU'", action: filter}
replicas: 4
"""
    policy = load(text, KEY="k").policy
    own, free = policy.upstreams["own"], policy.upstreams["free"]
    assert (own.scheme, own.host, own.port, own.prefix) == ("http", "10.0.0.9", 8000, "/x/v1")
    assert own.price == FlatPrice(150_000_000, 600_000_000, 75_000_000)
    assert (own.usage, own.ca_file, own.provider, own.key) == ("never", "/ca", "google", "client")
    assert (free.price, free.key, free.key_ref, free.provider) == (FlatPrice(0, 0), "env", "KEY", None)
    assert policy.upstreams["far"].provider == "google"
    route = policy.routes[0]
    assert route.match == Match(("gpt-*",), ("/v1/chat/*",), {"team": "7", "tenant": "acme"})
    assert (route.baseline.id, route.baseline.model, [arm.id for arm in route.arms]) == ("a", "4.10", ["b"])
    assert route.arms[0].params == (("stop", b'["x",1,1.5,true,null,{"k":true}]'), ("seed", b'"2024-01-01"'))
    assert route.arms[0].facts == {"region": "EU", "size": 7}
    assert route.objective == Objective("latency", cost_weight=1.0)
    assert route.rollout is not None
    assert (route.rollout.require, route.rollout.margin, route.rollout.false_rollback) == ("non_inferior", 0.03, 0.04)
    assert route.rollout.replicas == 4
    assert route.rollout.guardrails == (Guardrail("gave_up", off=True), Guardrail("latency_p95", ratio=2.0))
    assert route.budget is not None
    assert (route.budget.per_request_nusd, route.budget.daily_nusd) == (10**9, 2_500_000_000)
    assert (route.quality.feedback, route.quality.min_samples) == (False, 0)
    quality, cost = route.thresholds
    assert (quality.below, quality.action, quality.arm) == (0.8, "rollback", "b")
    assert (cost.above, cost.action, cost.min_samples, cost.recover) == (20_000_000.0, "adjust", 5, 0.5)
    assert policy.rules[0].message == "refused by the rule eu"


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ("    mode: canary\n", "mode canary has nothing to choose from"),
        ("    fallback: {arms: [base], on: [429]}\n", "routes[0].fallback: means nothing in mode observe"),
        ("    thresholds: [{name: t, metric: quality, below: 0.5}]\n", "its action means nothing in mode observe"),
        ("    objective: {minimize: cost}\n", "routes[0].objective: means nothing in mode observe"),
        ("    rollout: {min_requests: 5}\n", "routes[0].rollout: means nothing in mode observe"),
        ("    rollout: {steps: [5, 50]}\n", "do not end at 100"),
        ("    quality: {language: en}\n", "quality.language: means nothing without the validator language"),
        ("    match: {models: [a]}\n    virtual: [auto]\n", "'auto' is not in match.models"),
        ("  - {name: s, baseline: {id: b, upstream: openai, model: m}}\n", "matches everything, so the routes"),
        ("rules: [{id: r, when: \"user.tier == 'x'\", action: deny}]\n", "requests without the tag 'tier'"),
        ("rules: [{id: r, when: \"model.eu == true\", action: deny}]\n", "model.eu is not known of r/base"),
    ],
)  # fmt: skip
def test_warnings(more: str, warning: str) -> None:
    """What is accepted and does nothing yet, or probably means something else, is said with file, line and path."""
    told = warned(HEAD + ROUTE + more)
    assert warning in told
    assert all(re.match(r"p\.yaml:\d+: \S+: .+; .+", line) for line in told.splitlines())


def test_more_warnings() -> None:
    """Keys that are not there, keys over plain HTTP, rules without routes."""
    held = HEAD + '  x: {dialect: openai, base_url: "http://vllm:8000", api_key: {env: NO_SUCH}}\nroutes: []\n'
    assert "the environment variable NO_SUCH is not set here" in warned(held)
    assert "not set" not in warned(held, NO_SUCH="k")
    assert "goes over the network unencrypted" in warned(held)
    assert warned(held.replace("vllm", "127.0.0.1"), NO_SUCH="k") == ""
    assert "no arm's model.eu is known" in warned(
        HEAD + "routes: []\nrules: [{id: r, when: 'model.eu == true', action: deny}]\n"
    )
    assert warned(HEAD + ROUTE + "rules: [{id: r, when: \"model.id == 'x'\", action: deny}]\n") == ""


def test_modes_have_a_rollout_by_default() -> None:
    """canary and optimize bring arms in by canary although no `rollout` is written; observe has none."""
    arms = "    arms: [{id: b, upstream: openai, model: m}]\n"
    by_mode = {
        mode: load(HEAD + ROUTE + arms + f"    mode: {mode}\nreplicas: 2\n").policy.routes[0].rollout
        for mode in ("observe", "canary", "optimize")
    }
    assert by_mode["observe"] is None
    assert by_mode["canary"] == by_mode["optimize"] == RolloutSpec(replicas=2)


def test_version_depends_on_content_only() -> None:
    """Equal content in another layout has the same version; any other content another one."""
    first = load(HEAD + ROUTE).policy.version
    same = "# comment\nservice: 'bot'\nversion: 1\n" + HEAD.split("bot\n")[1] + ROUTE
    assert load(same).policy.version == first
    assert load(HEAD + ROUTE + "replicas: 2\n").policy.version != first
    number = HEAD + ROUTE.replace("gpt-4o}", "gpt-4o, params: {n: 1}}")
    assert load(number).policy.version != load(number.replace("n: 1", "n: '1'")).policy.version


def test_folder(tmp_path: Path) -> None:
    """An exact service wins over `*`; hidden files and other endings are not read; no match is a warning."""
    assert load_policies(None, "bot", {}) == Loaded(NO_POLICY)
    (tmp_path / "b.yaml").write_text(HEAD + ROUTE)
    (tmp_path / ".hidden.yaml").write_text("nonsense: [")
    (tmp_path / "notes.txt").write_text("nonsense: [")
    other = load_policies(tmp_path, "other", {})
    assert (other.policy, other.file) == (NO_POLICY, None)
    assert "no policy here is for service 'other'" in other.warnings[0]
    (tmp_path / "a.yml").write_text((HEAD + ROUTE).replace("service: bot", 'service: "*"'))
    assert load_policies(tmp_path, "bot", {}).file == tmp_path / "b.yaml"
    assert load_policies(tmp_path, "other", {}).file == tmp_path / "a.yml"


def test_folder_tells_everything(tmp_path: Path) -> None:
    """Two files for one service, and every other bad file, in one error."""
    (tmp_path / "a.yaml").write_text(HEAD + ROUTE)
    (tmp_path / "b.yaml").write_text(HEAD + ROUTE)
    (tmp_path / "c.yaml").write_text("version: 3\n")
    (tmp_path / "d.yaml").write_bytes(b"\xff\xff")
    (tmp_path / "e.yaml").mkdir()
    (tmp_path / "f.yaml").write_text("#" * 1_100_000)
    with pytest.raises(ConfigError) as caught:
        load_policies(tmp_path, "bot", {})
    told = str(caught.value)
    assert f"{tmp_path}/b.yaml:1: service: {tmp_path}/a.yaml is for service 'bot' too; " in told
    assert f"{tmp_path}/c.yaml:1: version: " in told
    assert f"{tmp_path}/d.yaml:1: (file): is not UTF-8 text; " in told
    assert f"{tmp_path}/e.yaml:1: (file): cannot be read (IsADirectoryError); " in told
    assert f"{tmp_path}/f.yaml:1: (file): is larger than 1 MiB; " in told
    with pytest.raises(ConfigError, match="cannot be listed"):
        load_policies(tmp_path / "none", "bot", {})


def test_loop_guard() -> None:
    """An upstream that is one of our own listeners is refused when the settings are known."""
    text = HEAD.replace("https://api.openai.com/v1", "http://localhost:9090/v1") + ROUTE
    with pytest.raises(ConfigError, match=r"p\.yaml:4: upstreams\.openai\.base_url: .* is this sidecar itself"):
        load_text(text, Path("p.yaml"), {}, Settings())
    assert load(text).policy.routes


def test_held_keys_need_client_authentication() -> None:
    """Where others can reach the listener, a held key needs client_tokens_file; a client's own key does not."""
    open_text, held = HEAD + ROUTE, HEAD.replace('/v1"}', '/v1", api_key: {file: /k}}') + ROUTE
    standalone = Settings.load({"MODE": "standalone"})
    guarded = Settings.load({"MODE": "daemon", "SIDECAR_CLIENT_TOKENS_FILE": "/t"})
    refused = (
        r"p\.yaml:3: upstreams: the key of openai is held here, and in mode standalone .*; set SIDECAR_CLIENT_TOKENS"
    )
    with pytest.raises(ConfigError, match=refused):
        load_text(held, Path("p.yaml"), {}, standalone)
    for allowed, text in ((standalone, open_text), (guarded, held), (Settings(), held)):
        assert load_text(text, Path("p.yaml"), {}, allowed).policy == load_text(text, Path("p.yaml"), {}).policy


def test_who_starts_the_pods_says_how_many() -> None:
    """SIDECAR_REPLICAS takes the place of the file's `replicas` wherever that divides, and leaves the version, of which salt
    and rollout ids are made, as it is: pods that are told different numbers agree on who is in."""
    arms = "    arms: [{id: mini, upstream: openai, model: mini}]\n    rollout: {false_rollback: 4%}\n"
    text = HEAD + ROUTE + "    mode: canary\n    budget: {daily_usd: 10}\n" + arms
    shared, ids = Settings.load({"SIDECAR_REPLICAS": "4"}), set[str]()
    for written, told, expected in (
        ("", None, 1),
        ("replicas: 2\n", None, 2),
        ("replicas: 2\n", shared, 4),
        ("", shared, 4),
    ):
        policy = load_text(text + written, Path("p.yaml"), {}, told).policy
        (route,) = policy.routes
        assert route.budget is not None
        assert route.rollout is not None
        assert policy.replicas == expected
        assert route.budget.daily_nusd == 10_000_000_000 // expected
        assert (route.rollout.false_rollback, route.rollout.replicas) == (0.04, expected)
        ids.add(rollout_id_of(route, route.arms[0], route.rollout))
        assert policy.version == load(text + written).policy.version
    assert len(ids) == 1
    assert Settings.load({"SIDECAR_REPLICAS": ""}).replicas is None
    for wrong in ("0", "10001", "many"):
        with pytest.raises(ConfigError, match="SIDECAR_REPLICAS"):
            Settings.load({"SIDECAR_REPLICAS": wrong})


def test_default_upstreams() -> None:
    """The providers' origins, or what the environment names; another origin keeps the provider's prices."""
    made = default_upstreams(Settings.load({"OPENAI_UPSTREAM": "http://127.0.0.1:8000/v1", "SIDECAR_CA_FILE": "/ca"}))
    assert [(one.host, one.port, one.provider) for one in made.values()] == [
        ("127.0.0.1", 8000, "openai"),
        ("api.anthropic.com", 443, "anthropic"),
        ("generativelanguage.googleapis.com", 443, "google"),
    ]
    assert (made["openai"].prefix, made["openai"].key, made["gemini"].dialect, made["gemini"].ca_file) == (
        "/v1",
        "client",
        "gemini",
        "/ca",
    )
    assert default_upstreams(Settings())["openai"].ca_file is None


KEYS = [
    "version",
    "service",
    "upstreams",
    "routes",
    "rules",
    "replicas",
    "name",
    "baseline",
    "arms",
    "mode",
    "match",
    "rollout",
    "steps",
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["5s", "1.5x", "a"])
)
TREES = st.recursive(
    SCALARS,
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), below, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(st.one_of(TREES.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True)), st.text(max_size=60)))
def test_any_yaml_is_loaded_or_refused(text: str) -> None:
    """Arbitrary text makes no other exception than ConfigError, and that says file and line."""
    try:
        told = f"p.yaml:1: loaded {load(text).policy.version}"
    except ConfigError as error:
        told = str(error)
    assert all(re.match(r"p\.yaml:\d+: ", line) for line in told.split("\n"))


@settings(max_examples=150)
@given(
    st.integers(0, 400),
    st.integers(0, 40),
    st.sampled_from(["", "x", "[", "{", ": ", "\n", "- ", "'", "null", "&a *a", "9" * 30]),
)
def test_any_damage_is_loaded_or_refused(at: int, length: int, new: str) -> None:
    """A valid policy with any piece cut out or replaced loads or is refused with file and line."""
    text = HEAD + ROUTE + "    rollout: {steps: [5, 50], guardrails: {cost: 1.5x}}\n    budget: {daily_usd: 5}\n"
    try:
        told = f"p.yaml:1: loaded {load(text[:at] + new + text[at + length :]).policy.version}"
    except ConfigError as error:
        told = str(error)
    assert all(re.match(r"p\.yaml:\d+: ", line) for line in told.split("\n"))
