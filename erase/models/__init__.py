"""Load a text-to-image model, and choose which of its tensors a run trains."""

from erase.models.adapter import DOWN, UP, Adapter, LoraPlan, is_layer, layers, merge
from erase.models.families import FAMILIES
from erase.models.hiding import Hiding
from erase.models.hub import hub_id
from erase.models.loading import load_model, quiet_libraries
from erase.models.model import WORLD, Model, model_hash
from erase.models.parameters import ENCODER, Outcome, Trained, put_tensors, select
from erase.models.text import Text, choose, join, moved

__all__ = [
    "DOWN",
    "ENCODER",
    "FAMILIES",
    "UP",
    "WORLD",
    "Adapter",
    "LoraPlan",
    "Hiding",
    "Model",
    "Outcome",
    "Text",
    "Trained",
    "choose",
    "hub_id",
    "is_layer",
    "join",
    "layers",
    "load_model",
    "merge",
    "model_hash",
    "moved",
    "put_tensors",
    "quiet_libraries",
    "select",
]
