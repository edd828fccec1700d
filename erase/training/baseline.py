"""Put a baseline's weights in: the same, random ones, or those of another model."""

from __future__ import annotations

import torch

from erase.errors import InputError
from erase.methods.baselines import Baseline, randomised
from erase.models import Model, Outcome, Trained, select
from erase.runtime import stable_seed


def put_baseline(model: Model, baseline: Baseline, parameters: str, seed: int, source: Model | None) -> Outcome:
    """What the baseline makes of the selected weights, put into the model.

    Raises `InputError` for a `source` that differs from the model in more than those weights.
    """
    trained = Trained(select(model, parameters))
    if baseline.weights == "random":
        trained.load(randomised(trained.originals, stable_seed(seed, baseline.name)))
    elif baseline.weights == "source":
        if source is None:
            raise InputError(f"method {baseline.name} needs method.source, the folder of the model it is to be")
        trained.load({name: p.detach() for name, p in select(source, parameters).items()})
    return trained.outcome()


def check_gold(model: Model, source: Model, parameters: str) -> None:
    """Raises `InputError` unless the source is laid out as the model and differs from it in the denoiser alone."""
    ours, theirs = select(model, parameters), select(source, parameters)
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        raise InputError(f"method.source {source.source!r} is laid out otherwise than the model; a gold has its layout")
    for name, part in model.weighted.items():
        if part is model.unet:
            continue
        ours, theirs = part.state_dict(), source.weighted[name].state_dict() if name in source.weighted else {}
        if ours.keys() != theirs.keys() or not all(torch.equal(value, theirs[key]) for key, value in ours.items()):
            raise InputError(f"method.source {source.source!r} has another {name} than the model; a gold shares it")
