"""One sidecar for all tests of this folder, which run where the SDKs are: `make test-sdk`. Elsewhere none is collected."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.sdk.stack import Stack, running

if not (importlib.util.find_spec("cohere") or os.environ.get("LLM_SIDECAR_SDK")):
    collect_ignore_glob = ["test_*.py"]
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it asks the network


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("sdk")) as one:
        yield one
