"""Write an erased model in the formats that other tools load."""

from erase.export.diffusers import save_pipeline

FORMATS = {"diffusers": "a pipeline folder that `StableDiffusionPipeline.from_pretrained` loads"}

__all__ = ["FORMATS", "save_pipeline"]
