"""Load a text-to-image model, and choose which of its tensors a run trains."""

from erase.models.loading import WORLD, Model, load_model, model_hash, quiet_libraries
from erase.models.parameters import PRESETS, Trained, put_tensors, select

__all__ = [
    "PRESETS",
    "WORLD",
    "Model",
    "Trained",
    "load_model",
    "model_hash",
    "put_tensors",
    "quiet_libraries",
    "select",
]
