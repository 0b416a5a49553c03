"""What an installation and a pod's annotations may say: every value read, every mistake named with its fix."""

import re

import pytest

from sidecar.config.settings import Settings
from sidecar.errors import ConfigError
from sidecar.inject import texts
from sidecar.inject.options import ANNOTATIONS, RESERVED, Defaults, Options, opted_out, read_options
from sidecar.inject.texts import Resources
from tests.fixtures.reviewed import said


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Defaults.read(text)
    return str(caught.value).splitlines()


def wrong(**annotations: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_options(said(**annotations), {}, Defaults())
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "null", "{}"])
def test_an_empty_file_is_all_defaults(text: str) -> None:
    assert Defaults.read(text) == Defaults()


def test_every_key_is_read() -> None:
    """The whole file, as the chart's ConfigMap has it."""
    read = Defaults.read("""
image: registry.example.com/llm-sidecar@sha256:0123
image_pull_policy: IfNotPresent
log_level: warning
mode: plain
resources: cpu=200m,memory=300Mi,cpu-limit=none,memory-limit=600Mi
port: 19090
health_port: 19091
admin_port: 19092
policies: bots
priors: learnt
upstream_secrets: [openai, claude]
state_size: 1Gi
env: {OBSERVATORY_URL: "http://collector:4318", SIDECAR_CONNECT_TIMEOUT: 3s}
fixed_user: false
strict: true
""")
    assert read.resources == Resources("200m", "300Mi", None, "600Mi")
    assert (read.image_pull_policy, read.log_level, read.mode, read.strict) == (
        "IfNotPresent",
        "warning",
        "plain",
        True,
    )
    assert (read.port, read.health_port, read.admin_port) == (19090, 19091, 19092)
    assert (read.policies, read.priors, read.upstream_secrets) == ("bots", "learnt", ("openai", "claude"))
    assert (read.state_size, read.fixed_user) == ("1Gi", False)
    assert read.env == {"OBSERVATORY_URL": "http://collector:4318", "SIDECAR_CONNECT_TIMEOUT": "3s"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("polices: x", "inject:1: polices: is not a key here; did you mean 'policies'?"),
        ("image: ''", "inject:1: image: '' is not the name of an image"),
        ("image: [a]", "inject:1: image: must be image; write one value here"),
        ("mode: sideways", "inject:1: mode: 'sideways' is not one of auto, native, plain"),
        ("resources: cpu=1,cpu-limit=500m", "has a cpu-limit below cpu"),
        ("port: 80", "inject:1: port: '80' is not a port; write a number from 1024 to 65535"),
        ("port: 9091", "gives two listeners one port"),
        ("state_size: 1k", "is not a size from 1Mi on"),
        ("policies: No", "is not the name of an object"),
        ("env: {1a: x}", "env.1a: is not the name of a variable"),
        ("env: {SIDECAR_LISTEN: x}", "env.SIDECAR_LISTEN: is set by the injector"),
        ('env: {A: "\\0"}', "is not the value of a variable"),
        ("env: {SIDECAR_MAX_STREAMS: lots}", "SIDECAR_MAX_STREAMS: 'lots' is not a whole number"),
        ("env: {SIDECAR_MAX_STREAM: 1}", "SIDECAR_MAX_STREAM: is not a setting"),
        ("{port: 8090, env: {OPENAI_UPSTREAM: 'http://localhost:8090'}}", "is this sidecar itself"),
        ("strict: maybe", "is neither true nor false"),
        ("- a", "must be the injector's configuration, a map"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_told(text: str, told: str) -> None:
    """File, line, key path and how to fix it, all problems at once."""
    assert any(told in one for one in refused(text))


def test_all_problems_are_told_at_once() -> None:
    assert len(refused("mode: x\nport: y\nnothing: z\n")) == 3


def test_reserved_variables_are_those_that_we_set() -> None:
    assert {"SERVICE_ID", "SIDECAR_DB", "NODE_NAME"} <= RESERVED
    assert "HTTPS_PROXY" not in RESERVED


def test_an_annotation_wins_over_the_installation() -> None:
    defaults = Defaults.read(
        "{policies: p, image: a, log_level: error, mode: plain, resources: 'cpu=50m', upstream_secrets: [s]}"
    )
    assert read_options({}, {}, defaults, None, True) == Options(
        defaults=defaults,
        native=True,
        image="a",
        log_level="error",
        mode="plain",
        resources=Resources("50m"),
        policies="p",
        secrets=("s",),
    )
    own = said(policies="q", image="b", log_level="debug", mode="auto", resources="memory=1Gi", upstream_secrets="t,s")
    made = read_options(own, {}, defaults, 4, True)
    assert (made.policies, made.image, made.log_level, made.mode, made.replicas) == ("q", "b", "debug", "auto", 4)
    assert made.resources == Resources("50m", "1Gi", "500m", "1Gi")  # what it leaves out stays; the limit rises with it
    assert made.secrets == ("s", "t")


def test_a_variable_that_the_kubelet_fills_in_cannot_be_checked() -> None:
    text = "env: {OBSERVATORY_URL: 'http://$(NODE_NAME):4318', SIDECAR_MAX_STREAMS: '$(MOST)', OTHER: x}"
    assert Defaults.read(text).env["SIDECAR_MAX_STREAMS"] == "$(MOST)"


def test_more_pods_than_the_sidecar_can_count_are_as_many_as_it_can() -> None:
    """What it would refuse at its start keeps the app from starting."""
    assert read_options({}, {}, Defaults(), 10_001).replicas == 10_000
    assert Settings.load({"SIDECAR_REPLICAS": "10000"}).replicas == 10_000


def test_an_empty_annotation_says_nothing() -> None:
    """A template that fills in an empty value does not keep the pod from its sidecar."""
    assert read_options(said(policies="", mode=" ", port=""), {}, Defaults()) == read_options({}, {}, Defaults())


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("inject", "yes", 'is neither "true" nor "false"'),
        ("mode", "nativ", "did you mean 'native'?"),
        ("log-level", "trace", "is not one of debug, info, warning, error"),
        ("service", "-x", "is not a usable name"),
        ("image", "a b", "is not the name of an image"),
        ("resources", "cpu", "has a cpu that is not a quantity"),
        ("resources", "cores=1", "has an entry that is not known"),
        ("resources", "cpu=0", "no whole number of thousandths above 0"),
        ("resources", "cpu=0.0001", "no whole number of thousandths"),
        ("resources", "cpu=none", "has a cpu that is not a quantity"),
        ("resources", "memory=1Mi", "no whole number of bytes from 32Mi on"),
        ("resources", "memory=64Mi,memory-limit=63Mi", "has a memory-limit below memory"),
        ("policies", "Bots", "is not the name of an object"),
        ("priors", "a" * 254, "is not the name of an object"),
        ("upstream-secrets", "a,B", "is not the name of an object"),
        ("upstream-secrets", ",".join(f"s{at}" for at in range(17)), "names more than 16 Secrets"),
        ("containers", ",", "is not a list of containers"),
        ("containers", "a_b", "is not a list of containers"),
        ("port", "80", "is not a port"),
        ("port", "70000", "is not a port"),
        ("health-port", "http", "is not a port"),
        ("replicas", "0", "is not a number of pods"),
        ("replicas", "10001", "is not a number of pods"),
        ("replicas", "many", "is not a number of pods"),
    ],
)
def test_a_wrong_annotation_is_named(name: str, text: str, told: str) -> None:
    message = wrong(**{name.replace("-", "_"): text})
    assert message.startswith(f"annotation llm-sidecar.io/{name}: ")
    assert told in message
    assert re.search(r"; \S", message), "it says how to fix it"


def test_every_wrong_annotation_is_told() -> None:
    lines = wrong(mode="x", port="x", nothing="x").splitlines()
    assert len(lines) == 3
    assert "llm-sidecar.io/nothing is not known" in lines[0]


def test_two_listeners_on_one_port_are_told() -> None:
    assert "llm-sidecar.io/health-port: is the port of another listener" in wrong(port="9999", health_port="9999")


def test_an_annotation_that_is_no_text_is_told() -> None:
    with pytest.raises(ConfigError, match=r"llm-sidecar\.io/mode: is not a text; put it in quotes"):
        read_options({"llm-sidecar.io/mode": True}, {}, Defaults())


def test_the_label_says_inject_only() -> None:
    """A label's value is read for `inject`; a wrong one is named as a label's."""
    assert read_options({}, said(inject="true"), Defaults()).wanted is True
    with pytest.raises(ConfigError, match=r"label llm-sidecar\.io/inject: 'on' is neither"):
        read_options({}, said(inject="on"), Defaults())


def test_opting_out_is_heard_in_both_places() -> None:
    assert opted_out(said(inject="false"), {})
    assert opted_out({}, said(inject="disabled"))
    assert not opted_out(said(inject="true"), {})
    assert not opted_out({}, {})


def test_every_annotation_is_read() -> None:
    """None of the names in the list is accepted and then forgotten."""
    values = {"inject": "x", "status": None, "service": "-", "image": "-", "replicas": "x", "containers": ","}
    for name in ANNOTATIONS - {"status"}:
        assert f"llm-sidecar.io/{name}" in wrong(**{name.replace("-", "_"): values.get(name) or "!"})


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("100m", "0.1"),
        ("1", "1"),
        ("1.5", "1.5"),
        ("1Ki", "1024"),
        ("2k", "2000"),
        ("1Gi", str(2**30)),
        ("1T", str(10**12)),
    ],
)
def test_quantities(text: str, amount: str) -> None:
    assert texts.quantity(text) == texts.Decimal(amount)
