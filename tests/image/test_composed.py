"""App, sidecar and simulated provider of k8s/compose/compose.yaml, really started."""

import re
from pathlib import Path

from tests.fixtures.waiting import wait_for
from tests.image.composed import started
from tests.image.engine import ROOT

COMPOSE = ROOT / "k8s" / "compose" / "compose.yaml"
SCRAPE = "import urllib.request; print(urllib.request.urlopen('http://sidecar:9091/metrics').read().decode())"
CALLS = 6


def test_the_compose_file_works(image: str, tmp_path: Path) -> None:
    """The app's calls go through the sidecar to the provider: whole answers and streams, counted on the route of the
    policy that is mounted, seen by a scraper that asks for `sidecar:9091`; each ends with 0 on SIGTERM."""
    with started(COMPOSE, image, tmp_path / "hosts", "provider", "sidecar", "app") as running:
        app = running["app"]
        assert wait_for(lambda: app.output().count("\n") >= CALLS, 60.0, 0.5), app.output()
        calls = app.output().splitlines()[:CALLS]
        assert all(re.fullmatch(r"call \d+: 200 \d+ bytes", line) for line in calls), calls
        metrics = app.python(SCRAPE)
        counted = re.findall(
            r'^llm_sidecar_requests_total\{.*arm="(stable|candidate)".*\} (\S+)', metrics, re.MULTILINE
        )
        assert sum(float(number) for _, number in counted) >= CALLS - 1
        assert 'llm_sidecar_rollout_step_percent{arm="candidate",route="chat"} 10.0' in metrics
        assert 'service="order-assistant"' in metrics
        assert [running[name].stop() for name in ("app", "sidecar", "provider")] == [0, 0, 0]
