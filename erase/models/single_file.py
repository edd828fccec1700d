"""Checkpoints of one file, as the original code (LDM) lays them out: which family, what sizes, which tensors.

Nothing is fetched. Sizes are read off the tensors; what they leave open (how time is embedded, CLIP's words, the noise
schedule) is the same in every model of a family. Names are translated by diffusers' own loader.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from erase.errors import InputError, first_line
from erase.models.families import FAMILIES
from erase.models.weights import to_float32

Tensors = dict[str, Tensor]
Config = dict[str, Any]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP_WORDS, OPENCLIP_WORDS = "text_model.embeddings.token_embedding.weight", "token_embedding.weight"
# What gives other files away, for the error; looked for at the beginning of names, in this order.
OTHERS = {
    "conditioner.embedders.0.model.": "the SDXL refiner",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "joint_blocks.": "Stable Diffusion 3 without its text encoders",
    "model.diffusion_model.double_blocks.": "FLUX",
    "double_blocks.": "FLUX without its text encoders",
    "control_model.": "a ControlNet",
    "lora_": "a LoRA",
    "unet.": "a LoRA or a UNet alone",
    "down_blocks.": "a UNet alone, in diffusers' layout",
    "decoder.": "a VAE alone",
    "model.diffusion_model.": "a UNet without its text encoder",
}
# Empty tensors by which XL's trainers tell that v is predicted, and that the last step is noise alone.
V_MARK, ZERO_SNR = "v_pred", "ztsnr"
LEGACY_EPSILON = 875000  # the step count in Stable Diffusion 2's base files, which predict the noise


def read_file(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a .safetensors, or of a .ckpt that holds nothing but weights.

    Raises `InputError` for other endings, a file that is damaged, and a pickle with code in it, which does not run.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as opened:
                return {k: opened.get_tensor(k) for k in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or truncated ({error}); fetch it again") from None
    if path.suffix not in (".ckpt", ".pt", ".pth"):
        raise InputError(f"{path} is no checkpoint by its name; give a .safetensors, a .ckpt or a diffusers folder")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path} holds more than weights, which is not run; give a .safetensors of it") from None
    except Exception as error:  # whatever a damaged archive makes torch raise
        why = first_line(error)
        raise InputError(f"{path} is damaged or truncated ({why}); fetch it again") from None
    about = {"global_step": str(held["global_step"])} if isinstance(held, dict) and "global_step" in held else {}
    held = held.get("state_dict", held) if isinstance(held, dict) else {}
    tensors = (
        {k: v for k, v in held.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if isinstance(held, dict)
        else {}
    )
    for name, value in tensors.items():
        _check_whole(path, name, value)
    return tensors, about


def _check_whole(path: Path, name: str, value: Tensor) -> None:
    """Refuse a tensor that claims more numbers than the file holds, which would fill the memory once it is copied."""
    if value.layout != torch.strided or value.is_quantized or value.nbytes > value.untyped_storage().nbytes():
        raise InputError(f"{path}: tensor {name!r} of shape {tuple(value.shape)} is no plain array; fetch it again")


def current_name(name: str) -> str:
    """A tensor's name in today's files; early ones of Stable Diffusion 1 leave out CLIP's `text_model.`."""
    prefix = FAMILIES["sd1"].prefixes[0]
    rest = name.removeprefix(prefix)
    old = rest != name and rest.startswith(("embeddings.", "encoder.", "final_layer_norm."))
    return f"{prefix}text_model.{rest}" if old else name


def detect_file(tensors: Tensors) -> tuple[str, str]:
    """The family of a single file and what gave it away. Raises `InputError` that says what the file is instead."""
    # The last text encoder tells them apart: XL's first is that of 1.
    lasts = {name: family.prefixes[-1] for name, family in FAMILIES.items() if family.prefixes}
    marks = {name: p + (OPENCLIP_WORDS if p.endswith("model.") else CLIP_WORDS) for name, p in lasts.items()}
    found = next((name for name, mark in marks.items() if mark in tensors), None)
    first = tensors.get(f"{UNET}input_blocks.0.0.weight")
    if found is None or first is None:
        what = next((text for start, text in OTHERS.items() if any(k.startswith(start) for k in tensors)), None)
        said = f"it looks like {what}" if what else f"its {len(tensors)} tensors are of no model known here"
        raise InputError(f"{said}; only whole Stable Diffusion 1, 2 and XL files can be read")
    last = tensors.get(f"{UNET}out.2.weight")
    if last is not None and first.ndim == 4 and first.shape[1] != last.shape[0]:
        raise InputError(
            f"its UNet takes {first.shape[1]} channels and predicts {last.shape[0]}, as for inpainting; give a "
            "text-to-image model"
        )
    return found, f"it has {marks[found]}"


def unet_config(tensors: Tensors, family: str, pooled: int, side: int) -> Config:
    """UNet2DConditionModel's arguments; `pooled` is the width of SDXL's prompt summary, `side` that of a latent."""
    get = Reader(tensors, UNET)
    channels, depths, layers = [0], [0], [0]
    number = 1
    while get.any(f"input_blocks.{number}."):
        if get.any(f"input_blocks.{number}.0.op."):
            channels, depths, layers = [*channels, 0], [*depths, 0], [*layers, 0]
        else:
            channels[-1] = get.shape(f"input_blocks.{number}.0.out_layers.3.weight", 4)[0]
            depths[-1] = get.count(rf"input_blocks\.{number}\.1\.transformer_blocks\.(\d+)\.")
            layers[-1] += 1
        number += 1
    if not all(channels) or len(set(layers)) != 1 or not any(depths):
        raise InputError(f"its UNet's levels are of widths {channels} and depths {layers}, as no Stable Diffusion's")
    attention = next(n for n in range(1, number) if get.any(f"input_blocks.{n}.1.transformer_blocks."))
    block = f"input_blocks.{attention}.1."
    linear = len(get.shape(f"{block}proj_in.weight")) == 2
    middle = get.count(r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    config: Config = {
        "sample_size": side,
        "in_channels": get.shape("input_blocks.0.0.weight", 4)[1],
        "out_channels": get.shape("out.2.weight", 4)[0],
        "block_out_channels": tuple(channels),
        "layers_per_block": layers[0],
        "down_block_types": tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depths)),
        "transformer_layers_per_block": tuple(d or middle for d in depths),
        "cross_attention_dim": get.shape(f"{block}transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "use_linear_projection": linear,
        # Diffusers takes this for the number of heads: 8 in Stable Diffusion 1, of width 64 in the later ones.
        "attention_head_dim": tuple(max(1, c // 64) for c in channels) if linear else 8,
    }
    if family == "sdxl":
        told = get.shape("label_emb.0.0.weight", 2)[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (told - pooled) // 6,
            "projection_class_embeddings_input_dim": told,
        }
    return config


def vae_config(tensors: Tensors, family: str) -> Config:
    """AutoencoderKL's arguments."""
    get = Reader(tensors, VAE)
    levels = get.count(r"encoder\.down\.(\d+)\.")
    return {
        "block_out_channels": tuple(
            get.shape(f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)
        ),
        "layers_per_block": get.count(r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": get.shape("decoder.conv_in.weight", 4)[1],
        "scaling_factor": FAMILIES[family].scale,
    }


def text_config(tensors: Tensors, prefix: str, first_word: int, last_word: int) -> Config:
    """CLIPTextConfig's arguments for the encoder at `prefix`; a text lies between the two words with the given ids."""
    get = Reader(tensors, prefix)
    own = get.any("text_model.")  # CLIP's own layout, not OpenCLIP's
    words, width = get.shape(CLIP_WORDS if own else OPENCLIP_WORDS, 2)
    place = "text_model.embeddings.position_embedding.weight" if own else "positional_embedding"
    layer = "text_model.encoder.layers" if own else "transformer.resblocks"
    layers = get.count(rf"{re.escape(layer)}\.(\d+)\.")
    config: Config = {
        "vocab_size": words,
        "hidden_size": width,
        "max_position_embeddings": get.shape(place, 2)[0],
        # Stable Diffusion 2 reads its text before the last of 24 layers, and diffusers leaves that one out.
        "num_hidden_layers": 23 if prefix == FAMILIES["sd2"].prefixes[0] and layers == 24 else layers,
        "intermediate_size": get.shape(f"{layer}.0.mlp.{'fc1' if own else 'c_fc'}.weight", 2)[0],
        "num_attention_heads": max(1, width // 64),
        "hidden_act": "quick_gelu" if own else "gelu",
        "bos_token_id": first_word,
        "eos_token_id": last_word,
    }
    if prefix == FAMILIES["sdxl"].prefixes[1]:
        config["projection_dim"] = get.shape("text_projection", 2)[1]
    return config


def predicts(tensors: Tensors, about: dict[str, str], family: str) -> str:
    """What the UNet was trained to predict: as the metadata says, or a mark left by the trainer, or as is usual."""
    said = about.get("modelspec.prediction_type", "")
    if said in ("epsilon", "v"):
        return "v_prediction" if said == "v" else "epsilon"
    if V_MARK in tensors:
        return "v_prediction"
    return "epsilon" if about.get("global_step") == str(LEGACY_EPSILON) else FAMILIES[family].predicts


def side_of(about: dict[str, str], family: str, prediction: str, scale: int) -> int:
    """Width of a latent: from the metadata's resolution, or as is usual in the family."""
    found = re.fullmatch(r"(\d{2,4})x\1", about.get("modelspec.resolution", ""))
    if found and int(found[1]) % scale == 0:
        return int(found[1]) // scale
    return FAMILIES[family].side[prediction] // scale


class Reader:
    """Shapes and counts of the tensors below a prefix."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self.prefix = prefix
        self.shapes = {k.removeprefix(prefix): tuple(v.shape) for k, v in tensors.items() if k.startswith(prefix)}

    def any(self, start: str) -> bool:
        return any(name.startswith(start) for name in self.shapes)

    def count(self, pattern: str) -> int:
        """How many numbers there are in the place of the pattern's group."""
        return len({found[1] for name in self.shapes if (found := re.match(pattern, name))})

    def shape(self, name: str, dimensions: int | None = None) -> tuple[int, ...]:
        """Raises `InputError` for a tensor that is not there or of another number of dimensions."""
        shape = self.shapes.get(name)
        if shape is None:
            raise InputError(f"it lacks {self.prefix}{name}; fetch it again")
        if not all(shape) or dimensions is not None and len(shape) != dimensions:
            raise InputError(f"its {self.prefix}{name} is {shape}, which is no shape for it")
        return shape


def converted(tensors: Tensors, part: str, module: Any, convert: Callable[[], Tensors]) -> Tensors:
    """The tensors of one part under the names of the module that was built for it.

    Raises `InputError` where some are missing or of other shapes.
    """
    try:
        held = convert()
    except (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"its {part} cannot be translated ({type(error).__name__}: {error}); fetch it again") from None
    wanted = module.state_dict()
    short = {name.removeprefix("text_model."): value for name, value in held.items()}
    found = {name: short.get(name.removeprefix("text_model.")) for name in wanted}
    lost = sorted(name for name, value in found.items() if value is None)
    if lost:
        raise InputError(f"its {part} lacks {len(lost)} of {len(wanted)} tensors, first {lost[0]}; fetch it again")
    other = sorted(name for name, value in found.items() if value is not None and value.shape != wanted[name].shape)
    if other:
        shapes = f"{other[0]} is {tuple(found[other[0]].shape)} where {tuple(wanted[other[0]].shape)} fits"  # type: ignore[union-attr]
        raise InputError(f"its {part} has {len(other)} tensors of other shapes: {shapes}")
    return {name: to_float32(value, f"its {part}", name) for name, value in found.items() if value is not None}
