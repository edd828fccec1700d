"""Load a text-to-image model, and choose which of its tensors a run trains."""

from erase.models.loading import WORLD, Model, load_model
from erase.models.parameters import PRESETS, Trained, select

__all__ = ["PRESETS", "WORLD", "Model", "Trained", "load_model", "select"]
