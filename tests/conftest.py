"""Fixtures that every test may use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recordings and replay data that lies beside the checkout on our machines and in CI, and nowhere else."""
    if not (SHARED / "DESIGN.md").exists():
        pytest.skip("needs ../shared, which only the maintainers' machines and CI have")
    return SHARED
