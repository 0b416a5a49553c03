"""The plain manifests are what the chart renders, and the API server would take them."""

import pytest
import yaml

from tests import manifests
from tests.k8s import schemas
from tests.k8s.chart import name_of

NAMES = [*manifests.FILES, "example-app.yaml", *manifests.BY_HAND]


@pytest.mark.parametrize("name", manifests.FILES)
def test_it_is_in_step_with_the_chart(name: str) -> None:
    """When this fails, run `make manifests`."""
    assert (manifests.FOLDER / name).read_text() == manifests.rendered(name)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid(name: str) -> None:
    """Strictly, by the schemas of 1.29 to the newest; the one with the policy from 1.36 on."""
    versions = schemas.VERSIONS[7:] if name.startswith("policy-") else schemas.VERSIONS
    found = [
        f"{name_of(one)} on {version}: {fault}"
        for one in yaml.safe_load_all((manifests.FOLDER / name).read_text())
        for version in versions
        for fault in schemas.faults(one, version)
    ]
    assert found == []
