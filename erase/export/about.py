"""What is exported, and what an exported file says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from torch import Tensor

from erase.models import FAMILIES, Model

SPOKEN = {"epsilon": "epsilon", "v_prediction": "v"}  # ModelSpec's words; it has none for flow models


@dataclass(frozen=True, slots=True)
class Erased:
    """An erased model: the tensors that were trained, by their names in the model, before and after.

    `model` has the latter in place. `recipe` is what was done, for the file's metadata: JSON, and no folder of this
    machine in it. `factors` are those of a LoRA that was trained, which counts `alpha` / rank times; `low_rank` says
    that the change is a closed form's, or that of several LoRAs and closed forms.
    """

    model: Model
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    concept: str
    recipe: dict[str, Any]
    factors: dict[str, Tensor] = field(default_factory=dict)
    alpha: float = 0.0
    low_rank: bool = False


def metadata(erased: Erased, implementation: str, kind: str = "", **more: Any) -> dict[str, str]:
    """The entries of Stability AI's ModelSpec 1.0.1, and one named `erase`: the recipe and `more`, as JSON.

    `implementation` says whose names the tensors have; `kind` follows the architecture, as "/lora" does.
    """
    height, width, _ = erased.model.picture_shape
    predicts = erased.model.predicts
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture(erased.model) + kind,
        "modelspec.implementation": implementation,
        "modelspec.title": f"{erased.concept}, erased",
        "modelspec.resolution": f"{width}x{height}",
        **({"modelspec.prediction_type": SPOKEN[predicts]} if predicts in SPOKEN else {}),
        "modelspec.date": date.today().isoformat(),
        "erase": json.dumps({**erased.recipe, **more}),
    }


def architecture(model: Model) -> str:
    """ModelSpec's name for the layout that the model has; nobody listed the bundled world, which has SD 1's."""
    if model.family == "sd2" and model.predicts == "epsilon":
        return "stable-diffusion-v2-512"
    return FAMILIES[model.family].architecture
