"""What baselines do to prompts and weights, in the configuration and in a model.

Run: pytest tests/unit/test_baselines.py
"""

from __future__ import annotations

import pytest
import torch

from erase.config import BASELINES, EDITORS, METHOD_DEFAULTS, load_config, to_yaml, unused_settings
from erase.config.load import Config
from erase.errors import InputError
from erase.methods import BASELINES as MADE
from erase.methods.baselines import randomised
from erase.models import Hiding


@pytest.mark.parametrize(
    ("words", "prompt", "given"),
    [
        ((("cat", ""),), "a cat, flat style, on red", ", flat style, on red"),
        ((("cat", "fox"),), "a CAT on a red background", "a fox on a red background"),
        ((("cat", ""),), "a caterpillar and concat", "a caterpillar and concat"),
        ((("cat", ""),), "a kitten", "a kitten"),
        ((("pixel art", ""), ("cat", "fox")), "a pixel art cat", "fox"),
        ((("cat", "owl"),), "a cat, A cat, the cat and cat", "an owl, An owl, the owl and owl"),
        ((("owl", "cat"),), "an owl", "a cat"),
        ((("cat", "the sea"),), "a cat", "the sea"),
        ((("c.t", ""),), "a cat", "a cat"),
        ((("cat", r"\1"),), "cat", r"\1"),
    ],
)
def test_a_word_filter_strikes_whole_words(words: tuple[tuple[str, str], ...], prompt: str, given: str) -> None:
    assert Hiding(words).read(prompt) == given


def test_random_weights_are_as_large_as_before_and_remember_nothing() -> None:
    weights = {"a": torch.randn(64, 64) * 3 + 1, "bias": torch.zeros(8), "one": torch.ones(1)}
    made, again, other = randomised(weights, 1), randomised(weights, 1), randomised(weights, 2)
    assert all(torch.equal(made[k], again[k]) and made[k].shape == v.shape for k, v in weights.items())
    assert not torch.equal(made["a"], other["a"])
    assert made["a"].std() == pytest.approx(3, rel=0.1) and made["a"].mean() == pytest.approx(1, abs=0.2)
    assert abs(float(torch.corrcoef(torch.stack([made["a"].flatten(), weights["a"].flatten()]))[0, 1])) < 0.1
    assert float(made["bias"].abs().max()) > 0


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_a_method_without_training(name: str, tmp_path) -> None:
    config = load_config(None, {"concept": "cat", "method": name})
    assert config.train is None and unused_settings(config) == [] and name not in EDITORS
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config and isinstance(config, Config)
    with pytest.raises(InputError, match=f"{name} has no such option"):
        load_config(None, {"concept": "cat", "method": name, "method.lam": 0.1})
    said = unused_settings(load_config(None, {"concept": "cat", "method": name, "train.rounds": 7}))
    assert said == [f"train.rounds 7 is unused: {name} is a baseline and has no training"]


def test_baselines_are_those_that_there_are() -> None:
    assert set(MADE) == set(BASELINES) <= set(METHOD_DEFAULTS)
    assert all(b.summary.startswith("baseline: ") and b.name == name for name, b in MADE.items())


def test_only_retrained_has_a_source() -> None:
    assert load_config(None, {"concept": "cat", "method": "retrained", "method.source": "g"}).method.source == "g"
    with pytest.raises(InputError, match="method.source: esd has no such option"):
        load_config(None, {"concept": "cat", "method": "esd", "method.source": "g"})
    assert "source" not in load_config(None, {"concept": "cat"}).method.model_dump()


def test_gradient_ascent_can_do_without_retain_steps() -> None:
    assert load_config(None, {"concept": "cat", "method": "ga", "method.retain_weight": 0}).method.retain_weight == 0
    with pytest.raises(InputError, match="must be at least 0"):
        load_config(None, {"concept": "cat", "method": "ga", "method.retain_weight": -1})
