"""Load a text-to-image model, and choose which of its tensors a run trains."""

from erase.models.families import FAMILIES
from erase.models.loading import WORLD, Model, load_model, model_hash, quiet_libraries
from erase.models.parameters import PRESETS, Trained, put_tensors, select
from erase.models.text import Text, choose, join

__all__ = [
    "FAMILIES",
    "PRESETS",
    "WORLD",
    "Model",
    "Text",
    "Trained",
    "choose",
    "join",
    "load_model",
    "model_hash",
    "put_tensors",
    "quiet_libraries",
    "select",
]
