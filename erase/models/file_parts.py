"""The parts of a pipeline, made from a checkpoint of one file; CLIP's own words come with open_clip."""

from __future__ import annotations

import gzip
import json
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from erase.errors import InputError
from erase.models.families import FAMILIES
from erase.models.single_file import (
    ZERO_SNR,
    Tensors,
    converted,
    current_name,
    detect_file,
    predicts,
    read_file,
    side_of,
    text_config,
    unet_config,
    vae_config,
)

FIRST, LAST, MERGES = "<|startoftext|>", "<|endoftext|>", 48894
LENGTH = 77


def parts_of_file(path: Path) -> tuple[str, str, dict[str, Any]]:
    """Family, reason, and the parts that a `Model` takes. Raises `InputError` that names what the file is instead."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as loader

    tensors, about = read_file(path)
    tensors = {current_name(name): value for name, value in tensors.items()}
    name, reason = detect_file(tensors)
    parts: dict[str, Any] = {}
    for tokenizer, part, prefix in zip(
        FAMILIES[name].tokenizers, FAMILIES[name].text_encoders, FAMILIES[name].prefixes, strict=True
    ):
        open_clip = prefix.endswith("model.")  # these fill a text up with "!", word 0
        parts[tokenizer] = clip_tokenizer("!" if open_clip else LAST)
        parts[part] = _text_encoder(tensors, part, prefix, parts[tokenizer])
    second = parts.get("text_encoder_2")
    with init_empty_weights(include_buffers=False):  # no memory for sizes that the file only claims
        vae: Any = AutoencoderKL(**vae_config(tensors, name))
    prediction: Any = predicts(tensors, about, name)
    side = side_of(about, name, prediction, 2 ** (len(vae.config.block_out_channels) - 1))
    pooled = second.config.projection_dim if second else 0
    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel(**unet_config(tensors, name, pooled, side))
    for part, module, convert in (
        ("unet", unet, loader.convert_ldm_unet_checkpoint),
        ("vae", vae, loader.convert_ldm_vae_checkpoint),
    ):
        held = converted(tensors, part, module, partial(convert, dict(tensors), module.config))
        module.load_state_dict(held, assign=True)
        parts[part] = module
    parts["scheduler"] = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
        rescale_betas_zero_snr=prediction == "v_prediction" and ZERO_SNR in tensors,
    )
    if FAMILIES[name].zero_blank:
        parts["blank_is_zero"] = True
    return name, reason, parts


def _text_encoder(tensors: Tensors, part: str, prefix: str, tokenizer: Any) -> Any:
    import transformers
    from accelerate import init_empty_weights
    from diffusers.loaders import single_file_utils as loader

    config = transformers.CLIPTextConfig(**text_config(tensors, prefix, tokenizer.bos_token_id, tokenizer.eos_token_id))
    if config.vocab_size != len(tokenizer):
        raise InputError(
            f"its {part} knows {config.vocab_size:,} words, CLIP's has {len(tokenizer):,}; give the model as a "
            "diffusers folder, which has its own words"
        )
    kind = "CLIPTextModelWithProjection" if part == "text_encoder_2" else "CLIPTextModel"
    with init_empty_weights(include_buffers=False):
        module = getattr(transformers, kind)(config)
    if prefix.endswith("model."):
        convert = partial(loader.convert_open_clip_checkpoint, SimpleNamespace(config=config), dict(tensors), prefix)
    else:
        convert = partial(loader.convert_ldm_clip_checkpoint, dict(tensors))
    module.load_state_dict(converted(tensors, part, module, convert), assign=True)
    return module


@lru_cache(maxsize=2)
def clip_tokenizer(padding: str) -> Any:
    """CLIP's tokenizer, of 49,408 words and 77 places, from the list of merges in the open_clip package."""
    import open_clip
    from transformers import CLIPTokenizer

    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    letters = _letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m.split()) for m in merges), FIRST, LAST]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, rules = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
        rules.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True}
        about |= {"bos_token": FIRST, "eos_token": LAST, "unk_token": LAST, "pad_token": padding}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def _letters() -> list[str]:
    """CLIP's 256 byte letters in its order: printable bytes as they are, the others shifted above 255."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]
