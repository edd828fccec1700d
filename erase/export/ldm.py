"""A Stable Diffusion as one dictionary in the layout of the original code (LDM), which A1111 and ComfyUI read.

No table of names: diffusers' own loader of such files is given every name that the layout may have, each with a tensor
that says which it is, and what comes out is read backwards. What is made so is given to the loader again, and must come
back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import single_file_utils as loader
from torch import Tensor

from erase.errors import InputError
from erase.models import FAMILIES, Model
from erase.models.single_file import UNET, VAE

Tensors = dict[str, Tensor]
PROJECTION = "text_projection"  # the one that lies the other way round
RESNET = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
VAE_RESNET = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
VAE_ATTENTION = ("norm", "q", "k", "v", "proj_out")
OPENCLIP_LAYER = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model: its tensors, the names they may have in LDM, and diffusers' conversion from these.

    `convert_tags` is the conversion for tensors of three rows where that goes by their sizes.
    """

    what: str
    tensors: Tensors
    names: list[str]
    convert: Callable[[Tensors], Tensors]
    convert_tags: Callable[[Tensors], Tensors] | None = None


def to_ldm(model: Model) -> Tensors:
    """All tensors of the model under LDM's names.

    Raises `InputError` for a model with a tensor that the layout has no place for.
    """
    held: Tensors = {}
    encoders = zip(FAMILIES[model.family].text_encoders, FAMILIES[model.family].prefixes, strict=True)
    texts = [_text_encoder(getattr(model, name), prefix) for name, prefix in encoders]
    for part in (_unet(model.unet), _vae(model.vae), *texts):
        held |= _in_ldm(part)
    return held


def ldm_names(unet: Any) -> dict[str, str]:
    """LDM's name of every tensor of the UNet."""
    return {ours: ldm for ldm, (ours,) in places(_unet(unet)).items()}


def text_to_ldm(model: Model, part: str) -> Tensors:
    """The tensors of one text encoder under LDM's names."""
    family = FAMILIES[model.family]
    return _in_ldm(_text_encoder(getattr(model, part), family.prefixes[family.text_encoders.index(part)]))


def _in_ldm(part: Part) -> Tensors:
    """The part's tensors under LDM's names, as diffusers reads them back bit for bit."""
    made: Tensors = {}
    for name, sources in places(part).items():
        value = (
            torch.cat([part.tensors[source] for source in sources]) if len(sources) > 1 else part.tensors[sources[0]]
        )
        # LDM's VAE attends with 1 x 1 convolutions, diffusers with linear layers.
        pointwise = ".attn_1." in name and name.startswith(VAE) and value.ndim == 2
        value = value[:, :, None, None] if pointwise else value
        made[name] = value.T.contiguous() if name.endswith(PROJECTION) else value
    back = part.convert(dict(made))
    lost = sorted(n for n, value in part.tensors.items() if n not in back or not torch.equal(back[n], value))
    if lost:
        raise InputError(
            f"the {part.what} has {len(lost)} of {len(part.tensors)} tensors that a single file in Stable Diffusion's "
            f"own layout has no place for, first {lost[0]}; use another format"
        )
    return made


def places(part: Part) -> dict[str, list[str]]:
    """For every LDM name that the part uses, the names of its tensors that lie there, one below the other."""
    tags = {name: torch.arange(3 * n, 3 * n + 3)[:, None] for n, name in enumerate(part.names)}
    tags |= {name: tag.T for name, tag in tags.items() if name.endswith(PROJECTION)}
    found: dict[str, dict[int, str]] = {}
    for name, tag in (part.convert_tags or part.convert)(tags).items():
        if name in part.tensors:
            number, row = divmod(int(tag[0, 0]), 3)
            found.setdefault(part.names[number], {})[row] = name
    return {name: [rows[row] for row in sorted(rows)] for name, rows in found.items()}


def _unet(unet: Any) -> Part:
    tensors, config = unet.state_dict(), unet.config
    per_level = config.layers_per_block
    if not isinstance(per_level, int):
        raise InputError(f"the UNet has layers_per_block {per_level}; a single file needs one number of them")
    blocks = len(config.block_out_channels) * (per_level + 1)
    # Inside an attention both layouts have the same names.
    inner = sorted({match[1] for name in tensors if (match := re.search(r"\.attentions\.\d+\.(.*)", name))})
    names = [name for section in loader.DIFFUSERS_TO_LDM_MAPPING["unet"].values() for name in section.values()]
    resnet = list(_with_bias(RESNET))
    for i in range(1, blocks):
        names += [f"input_blocks.{i}.0.{tail}" for tail in resnet] + [f"input_blocks.{i}.1.{tail}" for tail in inner]
        if i % (per_level + 1) == 0:
            names += _with_bias([f"input_blocks.{i}.0.op"])
    names += [f"middle_block.{i}.{tail}" for i, tails in enumerate((resnet, inner, resnet)) for tail in tails]
    for i in range(blocks):
        names += [f"output_blocks.{i}.0.{tail}" for tail in resnet] + [f"output_blocks.{i}.1.{tail}" for tail in inner]
        if (i + 1) % (per_level + 1) == 0:
            level = i // (per_level + 1)
            attends = any(name.startswith(f"up_blocks.{level}.attentions.") for name in tensors)
            names += _with_bias([f"output_blocks.{i}.{2 if attends else 1}.conv"])
    convert = partial(loader.convert_ldm_unet_checkpoint, config=config)
    return Part("UNet", tensors, [UNET + name for name in dict.fromkeys(names)], convert)


def _vae(vae: Any) -> Part:
    config = vae.config
    names = list(loader.DIFFUSERS_TO_LDM_MAPPING["vae"].values())
    for half, way in (("encoder", "down"), ("decoder", "up")):
        layers = [f"mid.block_{i}.{tail}" for i in (1, 2) for tail in VAE_RESNET]
        layers += [f"mid.attn_1.{tail}" for tail in VAE_ATTENTION]
        for level in range(len(config.block_out_channels)):
            layers += [
                f"{way}.{level}.block.{i}.{tail}" for i in range(config.layers_per_block + 1) for tail in VAE_RESNET
            ]
            layers.append(f"{way}.{level}.{way}sample.conv")
        names += _with_bias(f"{half}.{layer}" for layer in layers)
    convert = partial(loader.convert_ldm_vae_checkpoint, config=config)
    return Part("VAE", vae.state_dict(), [VAE + name for name in names], convert)


def _text_encoder(encoder: Any, prefix: str) -> Part:
    """CLIP's under its own names, or OpenCLIP's, as the place in the file wants it."""
    # transformers 5.6 and later leave out the prefix, which files have.
    state = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
    tensors = {name if name.startswith(PROJECTION) else f"text_model.{name}": value for name, value in state.items()}
    if prefix.endswith("transformer."):
        names = [prefix + name for name in tensors]
        return Part("text encoder", tensors, names, loader.convert_ldm_clip_checkpoint)
    projects = any(name.startswith(PROJECTION) for name in tensors)
    layers = loader.DIFFUSERS_TO_LDM_MAPPING["openclip"]["layers"].values()
    names = [name for name in layers if projects or name != PROJECTION]
    for i in range(encoder.config.num_hidden_layers):
        layer = f"transformer.resblocks.{i}."
        names += _with_bias(layer + tail for tail in OPENCLIP_LAYER)
        names += [layer + "attn.in_proj_weight", layer + "attn.in_proj_bias"]

    def convert(held: Tensors, size: int) -> Tensors:
        stand_in = SimpleNamespace(config=SimpleNamespace(hidden_size=size))  # where in_proj is cut in three
        return loader.convert_open_clip_checkpoint(stand_in, held, prefix=prefix)

    return Part(
        "text encoder",
        tensors,
        [prefix + name for name in names],
        partial(convert, size=encoder.config.hidden_size),
        partial(convert, size=1),
    )


def _with_bias(layers: Iterable[str]) -> list[str]:
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
