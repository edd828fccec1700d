"""Load a text-to-image model, and choose which of its tensors a run trains."""

from erase.models.loading import WORLD, Model, load_model
from erase.models.parameters import PRESETS, Trained, put_tensors, select

__all__ = ["PRESETS", "WORLD", "Model", "Trained", "load_model", "put_tensors", "select"]
