"""What is known of each family of models before one is loaded: facts in one table, so that no code asks for a name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from erase.errors import InputError


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of model.

    `pipeline` is diffusers' class for it; `parts` are its folders with weights and the class in each, `tokenizers` the
    folders without. Of these a model may lack the `optional` ones. `options` is what the pipeline takes beside them.

    `denoiser` is the folder of the network that predicts, `told` how that learns of a prompt (a key of `TOLD`), and
    `lengths` how many tokens a tokenizer gives where that is not its own number. `zero_blank` says that the empty
    prompt may be read as zeros. `presets` are patterns of weights to train, by name; `readers` is that of weights which
    read the prompt's embedding and nothing else, None where there are none.

    `architecture` is its name in files' metadata. `prefixes` are the places of its text encoders in the original code's
    layout; none: only diffusers' layout is known here.

    What a single file leaves open is as usual: `predicts`, `scale` of the latents, `side` of pictures in pixels, by
    what is predicted. Flow models have one `predicts`, which no configuration names.
    """

    title: str
    pipeline: str
    parts: dict[str, str]
    tokenizers: dict[str, str]
    told: str
    presets: dict[str, str]
    architecture: str
    predicts: str
    options: dict[str, Any]
    optional: tuple[str, ...] = ()
    denoiser: str = "unet"
    lengths: dict[str, int] = field(default_factory=dict)
    zero_blank: bool = False
    readers: str | None = None
    prefixes: tuple[str, ...] = ()
    scale: float = 1.0
    side: dict[str, int] = field(default_factory=dict)

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if part.startswith("text_encoder"))

    @property
    def clips(self) -> tuple[str, ...]:
        """Those of them that can be trained and attacked; a T5 is many times as large as all else."""
        return tuple(part for part in self.text_encoders if self.parts[part].startswith("CLIP"))

    @property
    def network(self) -> str:
        """The denoiser, in words."""
        return "UNet" if self.denoiser == "unet" else self.denoiser

    @property
    def folders(self) -> tuple[str, ...]:
        """All that a model has a folder for."""
        return (*self.tokenizers, *self.parts, "scheduler")

    def held(self, index: dict[str, Any]) -> Family:
        """The family without the optional parts that a model_index.json says are not there."""
        gone = {part for part in self.optional if index.get(part) in (None, [None, None])}
        parts = {part: kind for part, kind in self.parts.items() if part not in gone}
        return replace(
            self, parts=parts, tokenizers={part: kind for part, kind in self.tokenizers.items() if part not in gone}
        )


def _presets(kv: str, text: str, blocks: str) -> dict[str, str]:
    """Patterns by the names that users give: of keys and values of the prompt, of all its attention, and so on.

    `blocks` is that of the transformer blocks, self-attention and feed-forward layers among them.
    """
    return {
        "xattn-kv": kv,
        "xattn": text,
        "noxattn": rf"^(?!.*{text})",
        "attentions": blocks,
        "full": "",
        "text-encoder": r"^text_encoder",
    }


_SD = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
_XL = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection", **_SD}
_SD3 = {
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_2": "CLIPTextModelWithProjection",
    "text_encoder_3": "T5EncoderModel",
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
}
_CLIP = {"tokenizer": "CLIPTokenizer"}
_CLIPS = {**_CLIP, "tokenizer_2": "CLIPTokenizer"}
_PLAIN = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
# A UNet's names: attn1 is self-attention, attn2 is cross-attention, whose keys and values read the prompt alone.
_READERS = r"\.attn2\.to_[kv]\."
_CROSS = _presets(_READERS, r"\.attn2\.", r"\.attentions\.")
# A transformer's: prompt and picture attend together, and the prompt's stream has the projections that are added.
_JOINT = _presets(
    r"\.attn\.add_[kv]_proj\.",
    r"\.attn\.(?:add_[qkv]_proj|to_add_out)\.",
    r"^transformer_blocks\.\d+\.(?:attn2?|ff|ff_context)\.",
)

FAMILIES: dict[str, Family] = {
    "sd1": Family(
        title="Stable Diffusion 1",
        pipeline="StableDiffusionPipeline",
        parts=_SD,
        tokenizers=_CLIP,
        told="states",
        presets=_CROSS,
        readers=_READERS,
        options=_PLAIN,
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
        tokenizers=_CLIP,
        told="states",
        presets=_CROSS,
        readers=_READERS,
        options=_PLAIN,
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
        tokenizers=_CLIPS,
        told="states and sizes",
        presets=_CROSS,
        readers=_READERS,
        options={"add_watermarker": False},
        zero_blank=True,
        architecture="stable-diffusion-xl-v1-base",
        prefixes=("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
        predicts="epsilon",
        scale=0.13025,
        side={"epsilon": 1024, "v_prediction": 1024},
    ),
    "sd3": Family(
        title="Stable Diffusion 3",
        pipeline="StableDiffusion3Pipeline",
        parts=_SD3,
        tokenizers={**_CLIPS, "tokenizer_3": "T5Tokenizer"},
        optional=("text_encoder_3", "tokenizer_3"),
        denoiser="transformer",
        told="joint",
        lengths={"tokenizer_3": 256},
        presets=_JOINT,
        options={},
        architecture="stable-diffusion-3",
        predicts="flow",
    ),
}


def detect(index: dict[str, Any], denoiser: dict[str, Any]) -> tuple[str, str]:
    """The family of a diffusers folder and what gave it away, from model_index.json and the denoiser's config.json.

    Raises `InputError` for a pipeline of no family here, and for one whose network takes more than noisy latents.
    """
    kind = index.get("_class_name")
    names = [name for name, family in FAMILIES.items() if family.pipeline == kind]
    if not names:
        *most, last = dict.fromkeys(family.pipeline for family in FAMILIES.values())
        raise InputError(f"it is a {kind}; only {', '.join(most)} and {last} can be erased from so far")
    network = FAMILIES[names[0]].network
    inputs, outputs = denoiser.get("in_channels", 4), denoiser.get("out_channels", 4)
    if inputs != outputs:  # inpainting has mask and picture beside the latents, pix2pix the picture
        raise InputError(
            f"its {network} takes {inputs} channels and predicts {outputs}, as for inpainting; give a text-to-image "
            "model"
        )
    if len(names) == 1:
        return names[0], f"model_index.json names {kind}"
    # SD 2 projects with linear layers where SD 1 has 1 x 1 convolutions; widths would not tell small models apart.
    linear = bool(denoiser.get("use_linear_projection", False))
    return "sd2" if linear else "sd1", f"{kind} with use_linear_projection {str(linear).lower()}"
