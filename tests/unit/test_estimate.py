"""Estimates of memory against numbers worked out by hand, and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.memory import COUNTS, gib, table
from erase.estimate import COUNTED, GIB, RESERVE, Weights, bytes_of_states, estimate, rounded

PLAIN: dict[str, Any] = {"batch": 1, "mixed": False, "half": False, "checkpointing": False, "masked": False}


def of(trained: int, optimizer: str = "dual", states: str = "fp32", family: str = "sd1", **changes: Any) -> Any:
    unet = COUNTS[family]["full"]
    weights = Weights(unet, unet - trained, trained, trained, changes.pop("others", 0))
    size = bytes_of_states(optimizer, ("adamw", "adamw"), states)
    settings = {**PLAIN, "offload": True, **changes}
    return estimate(weights, family, COUNTED[family].side, states=size, **settings)


@pytest.mark.parametrize(
    ("family", "trained", "one", "two"),
    [
        ("sd1", 19_169_280, 0.29, 0.43),
        ("sd1", 43_962_560, 0.65, 0.98),
        ("sd1", 815_558_404, 12.15, 18.23),
        ("sd1", 859_520_964, 12.81, 19.21),
        ("sdxl", 340_787_200, 5.08, 7.62),
        ("sdxl", 545_670_400, 8.13, 12.19),
        ("sdxl", 2_567_463_684, 38.3, 57.4),
    ],
)
def test_weights_gradients_and_states_are_four_numbers_a_weight_or_six(
    family: str, trained: int, one: float, two: float
) -> None:
    """4 bytes each for weight and gradient, 8 for every Adam: 16 or 24 bytes a weight."""
    for optimizer, wanted in (("shared", one), ("joint", one), ("dual", two)):
        need = of(trained, optimizer, family=family)
        assert need.trained + need.gradients + need.states == pytest.approx(wanted, abs=0.05 if wanted > 30 else 0.01)


@pytest.mark.parametrize(
    ("optimizer", "rules", "states", "wanted"),
    [
        ("dual", ("adamw", "sgd"), "fp32", 12),
        ("dual", ("adamw", "adam"), "fp32", 16),
        ("dual_plus", ("sgd", "sgd"), "fp32", 24),
        ("shared", ("sgd", "adamw"), "fp32", 4),
        ("dual", ("adamw", "adamw"), "8bit", 4.0625),  # a byte each and 4 bytes a block of 256: docs/optim.md
        ("dual_plus", ("adamw", "adamw"), "8bit", 6.09375),
        ("dual_first", ("adamw", "adamw"), "fp32", 12),
        ("dual_second", ("adamw", "adamw"), "fp32", 12),
        ("dual_rates", ("adamw", "adamw"), "fp32", 8),
        ("dual_second", ("adamw", "adamw"), "8bit", 3.046875),
    ],
)
def test_states_by_optimizer(optimizer: str, rules: tuple[str, str], states: str, wanted: float) -> None:
    assert bytes_of_states(optimizer, rules, states) == wanted


def test_every_saving_takes_off_what_it_says() -> None:
    xattn = COUNTS["sd1"]["xattn"]
    plain = of(xattn, others=COUNTS["sd1"]["others"], offload=False)
    assert plain.frozen == pytest.approx((859_520_964 - xattn) * 4 / GIB)
    assert plain.others == pytest.approx(0.770, abs=0.001)  # 206.7 M weights
    assert of(xattn, half=True, mixed=True).frozen == pytest.approx(plain.frozen / 2)
    assert of(xattn, states="8bit").states == pytest.approx(plain.states * 4.0625 / 16)
    assert of(xattn, checkpointing=True, batch=8).passing == pytest.approx(8 * COUNTED["sd1"].fp32_checkpointing)
    # bf16 casts of trained weights, 2 bytes each, wait for the backward pass.
    assert of(xattn, mixed=True, batch=2).passing == pytest.approx(2 * COUNTED["sd1"].mixed + 2 * xattn / GIB)
    full = of(859_520_964, checkpointing=True, mixed=True, masked=True)
    assert full.passing == pytest.approx(859_520_964 * 4 * 2.25 / GIB)  # AdamW's roots, the mask's copy and bits
    assert plain.total >= plain.pictures > 3.2 + RESERVE


def test_the_activations_grow_with_the_picture() -> None:
    small = estimate(Weights(10, 10, 0, 0, 0), "sd1", 64, states=8, offload=True, **PLAIN)
    large = estimate(Weights(10, 10, 0, 0, 0), "sd1", 128, states=8, offload=True, **PLAIN)
    assert large.passing == pytest.approx(4 * small.passing)


def test_presets_keep_what_they_promise() -> None:
    assert gib("sd1", "xattn", "8gb") < 6 and gib("sd1", "full", "24gb") < 16
    for family in ("sd1", "sd2"):
        assert gib(family, "xattn", "8gb") < 8 and gib(family, "xattn", "12gb") < 12
    for family, trained in (("sd1", "full"), ("sd2", "full"), ("sdxl", "xattn"), ("sdxl", "lora")):
        assert gib(family, trained, "24gb") < 24


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    assert table() in page, "print it anew: python benchmark/memory.py"
    assert rounded(5.01) == 5.1
