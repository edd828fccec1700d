"""What is known of each family of models before one is loaded: facts in one table, so that no code asks for a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erase.errors import InputError


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of model.

    `pipeline` is diffusers' class for it; `parts` are its folders with weights and the class in each; `tokenizers` the
    folders without. `pooled` says that the UNet is also told a summary of the prompt and the picture's sizes.
    `architecture` is its name in single files' metadata, where `prefixes` are the places of its text encoders.

    What a single file leaves open is as usual: `predicts`, `scale` of the latents, `side` of pictures in pixels, by
    what is predicted.
    """

    title: str
    pipeline: str
    parts: dict[str, str]
    tokenizers: tuple[str, ...]
    pooled: bool
    architecture: str
    prefixes: tuple[str, ...]
    predicts: str
    scale: float
    side: dict[str, int]

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if part.startswith("text_encoder"))


_SD = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
_XL = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection", **_SD}

FAMILIES: dict[str, Family] = {
    "sd1": Family(
        title="Stable Diffusion 1",
        pipeline="StableDiffusionPipeline",
        parts=_SD,
        tokenizers=("tokenizer",),
        pooled=False,
        architecture="stable-diffusion-v1",
        prefixes=("cond_stage_model.transformer.",),
        predicts="epsilon",
        scale=0.18215,
        side={"epsilon": 512, "v_prediction": 512},
    ),
    "sd2": Family(
        title="Stable Diffusion 2",
        pipeline="StableDiffusionPipeline",
        parts=_SD,
        tokenizers=("tokenizer",),
        pooled=False,
        architecture="stable-diffusion-v2-768-v",
        prefixes=("cond_stage_model.model.",),
        predicts="v_prediction",
        scale=0.18215,
        side={"epsilon": 512, "v_prediction": 768},
    ),
    "sdxl": Family(
        title="Stable Diffusion XL",
        pipeline="StableDiffusionXLPipeline",
        parts=_XL,
        tokenizers=("tokenizer", "tokenizer_2"),
        pooled=True,
        architecture="stable-diffusion-xl-v1-base",
        prefixes=("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
        predicts="epsilon",
        scale=0.13025,
        side={"epsilon": 1024, "v_prediction": 1024},
    ),
}


def detect(index: dict[str, Any], unet: dict[str, Any]) -> tuple[str, str]:
    """The family of a diffusers folder and what gave it away, from model_index.json and unet/config.json.

    Raises `InputError` for a pipeline of no family here, and for one whose UNet takes more than noisy latents.
    """
    kind = index.get("_class_name")
    names = [name for name, family in FAMILIES.items() if family.pipeline == kind]
    if not names:
        known = " and ".join(sorted({family.pipeline for family in FAMILIES.values()}))
        raise InputError(f"it is a {kind}; only {known} can be erased from so far")
    inputs, outputs = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if inputs != outputs:  # inpainting has mask and picture beside the latents, pix2pix the picture
        raise InputError(
            f"its UNet takes {inputs} channels and predicts {outputs}, as for inpainting; give a text-to-image model"
        )
    if len(names) == 1:
        return names[0], f"model_index.json names {kind}"
    # SD 2 projects with linear layers where SD 1 has 1 x 1 convolutions; widths would not tell small models apart.
    linear = bool(unet.get("use_linear_projection", False))
    return "sd2" if linear else "sd1", f"{kind} with use_linear_projection {str(linear).lower()}"
