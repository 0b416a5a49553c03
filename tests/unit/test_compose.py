"""What k8s/compose promises: it is well formed, closed to the network, pinned, and shows only what is measured."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import __version__
from sidecar.config.policy import load_policies
from sidecar.telemetry.catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "k8s" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("llm-sidecar:")]
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
HISTOGRAM = ("_bucket", "_sum", "_count")


def _dashboard(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def _queries(path: Path) -> list[str]:
    return [target["expr"] for panel in _dashboard(path)["panels"] for target in panel["targets"]]


def _families() -> dict[str, set[str]]:
    """Labels by each name that a query may use; `instance` and `job` are Prometheus' own."""
    found: dict[str, set[str]] = {}
    for metric in CATALOGUE:
        names = [metric.full_name + end for end in HISTOGRAM] if metric.kind == "histogram" else [metric.full_name]
        found |= {name: {*metric.labels, "le", "instance", "job"} for name in names}
    return found


def test_the_services_are_the_documented_ones() -> None:
    assert set(SERVICES) == {"provider", "sidecar", "app", "prometheus", "grafana"}
    assert set(OURS) == {"provider", "sidecar", "app"}
    documented = (ROOT / "docs" / "operations.md").read_text()
    assert "k8s/compose/compose.yaml" in documented
    assert "docker run " in documented


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_by_tag(name: str) -> None:
    """Ours to this version; others to a version, never to what is newest."""
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)
    if name in OURS:
        assert tag == __version__


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_on_loopback(name: str) -> None:
    """Nothing is reached from outside the machine, and the traffic port only by who shares the sidecar's network."""
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in SERVICES[name].get("ports", ()))
    assert not any(port.endswith((":9090", ":9092")) for port in SERVICES["sidecar"]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_has_a_privilege(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc"} & SERVICES[name].keys()
    if name in OURS:
        assert SERVICES[name]["read_only"]
        assert "mem_limit" in SERVICES[name]


def test_the_app_reaches_the_sidecar_as_in_a_pod() -> None:
    """One network for both, the usual variable, and no start before the sidecar is healthy."""
    app = SERVICES["app"]
    assert app["network_mode"] == "service:sidecar"
    assert app["environment"]["OPENAI_BASE_URL"] == "http://localhost:9090/v1"
    assert app["depends_on"] == {"sidecar": {"condition": "service_healthy"}}
    compile((FOLDER / "app.py").read_text(), "app.py", "exec")


def test_what_is_mounted_is_there() -> None:
    """Each file or folder of the checkout exists and cannot be written to; each volume is declared; each name that one
    service has of another is a service."""
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    for volume in volumes:
        source = volume.partition(":")[0]
        if source.startswith("."):
            assert (FOLDER / source).exists(), source
            assert volume.endswith(":ro"), volume
        else:
            assert source in COMPOSE["volumes"]
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)
    scraped = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"][0]["static_configs"][0]
    assert scraped["targets"] == ["sidecar:9091"]


def test_the_policies_load_and_go_to_the_simulated_provider() -> None:
    loaded = load_policies(FOLDER / "policies", "order-assistant", {})
    upstream = SERVICES["sidecar"]["environment"]["OPENAI_UPSTREAM"]
    text = (FOLDER / "policies" / "order-assistant.yaml").read_text()
    assert loaded
    assert f"base_url: {upstream}/v1" in text
    assert f"service: {SERVICES['sidecar']['environment']['SERVICE_ID']}\n" in text


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    """The provisioned source is the one service that is Prometheus; the folder of dashboards is mounted."""
    provisioning = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (place,) = yaml.safe_load((provisioning / "dashboards/llm-sidecar.yaml").read_text())["providers"]
    mounts = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    assert {place["options"]["path"], "/etc/grafana/provisioning"} == mounts
    shown = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (FOLDER / "grafana/dashboards" / Path(shown).name).exists()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_asks_for_what_is_measured(path: Path) -> None:
    """Each metric of each query is one of ours, and each label that it is grouped by or told apart by is that metric's."""
    families = _families()
    queries = _queries(path)
    assert len(queries) > 20
    for query in queries:
        used = re.findall(r"llm_sidecar_[a-z0-9_]+", query)
        assert used, query
        assert set(used) <= families.keys(), query
        allowed = set.intersection(*(families[name] for name in used))
        asked = {one.strip() for group in re.findall(r"by \(([^)]*)\)", query) for one in group.split(",")}
        asked |= set(re.findall(r"([a-z_]+)(?:=~|!=|!~|=)\"", query))
        assert asked <= allowed, query


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_is_whole(path: Path) -> None:
    """Panels have a title, a sentence, a unit and a place of their own; a legend names only labels of its query."""
    panels = _dashboard(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            grouped = {
                one.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for one in group.split(",")
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped, panel["title"]
