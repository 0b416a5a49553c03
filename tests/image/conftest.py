"""The image, built once for all tests of this folder: `make test-image`. Elsewhere none is collected: it takes minutes,
root, buildah and podman."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image import engine

if not os.environ.get("LLM_SIDECAR_IMAGE"):
    collect_ignore_glob = ["test_*.py"]
EPOCH = 1_700_000_000


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image is built of, as it was when the tests began."""
    return engine.copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def image(checkout: Path) -> str:
    """The name of the image of this checkout; it stays, for a look at it afterwards. With LLM_SIDECAR_BUILD=no the image
    of that name is taken as it is."""
    name = os.environ["LLM_SIDECAR_IMAGE"]
    if os.environ.get("LLM_SIDECAR_BUILD") != "no":
        engine.build(checkout, name, EPOCH)
    return name


@pytest.fixture(scope="session")
def files(image: str) -> Iterator[Path]:
    """The image's files."""
    with engine.mounted(image) as folder:
        yield folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder of the host that the image's user may write to, as an emptyDir is."""
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, engine.UID, engine.UID)
    return folder
