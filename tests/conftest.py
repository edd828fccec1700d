"""What every test gets: no model hub, one compute thread, and torch's global state put back afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

# Before torch or a hub client is imported, as both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def untouched_torch() -> Iterator[None]:
    """Random state and default dtype are as before, whatever a test did."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        yield
        return
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    yield
    torch.set_rng_state(state)
    torch.set_default_dtype(dtype)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="50 clients of the web UI for two minutes, not eight seconds")
    parser.addoption("--kills", type=int, default=2, help="processes that tests/integration/test_kill.py kills")
    parser.addoption(
        "--fuzz", action="store_true", help="10,000 mutated configurations and 1,000 checkpoints, not a few"
    )
