"""The bundled world's judges at work: two classifier families, a small CLIP, and the colour of the border."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from erase.errors import InputError
from erase.resources import asset
from erase.runtime import file_hash
from erase.world.captions import encode
from erase.world.judges import Classifier
from erase.world.scenes import SIZE
from erase.world.vocabulary import COLOURS, OBJECT_NAMES, STYLE_NAMES

FAMILIES = ("conv", "patch")
NONE = "none"
BORDER = 2
BLANK = 3.0  # a deviation of 3 of 255 grey levels over a whole picture is less than any glyph makes


@dataclass(frozen=True, slots=True)
class Judges:
    """Loaded judges. `conv` is the one reported; `patch` is for tuning and attacks."""

    classifiers: dict[str, Classifier]
    clip: open_clip.CLIP
    tokenizer: CLIPTokenizer
    device: torch.device

    @torch.inference_mode()
    def look(
        self, images: Sequence[np.ndarray], prompts: Sequence[str] | None = None, *, batch: int = 64
    ) -> list[dict[str, Any]]:
        """What every judge sees in each picture.

        `images` are uint8 of shape (H, W, 3); `prompts`, if given, one a picture. Each answer holds `flags` (reasons
        why there is no picture), `judges` (for each family: object, object_prob, style, style_prob, abstain),
        `clip_score` (cosine of picture and prompt, or None) and `colour` (palette name nearest to the border). Raises
        `InputError` for any other type, shape or number of pictures.
        """
        for place, image in enumerate(images):
            check_image(image, place)
        if prompts is not None and len(prompts) != len(images):
            raise InputError(f"judges: {len(images)} images but {len(prompts)} prompts; give one a picture")
        found: list[dict[str, Any]] = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            pixels = torch.cat([_tensor(image) for image in part]).to(self.device)
            answers = {name: _classify(model, pixels) for name, model in self.classifiers.items()}
            similar: Sequence[float | None] = [None] * len(part)
            if prompts is not None:
                similar = self._similarity(pixels, list(prompts[start : start + batch]))
            for i, image in enumerate(part):
                seen = {name: rows[i] for name, rows in answers.items()}
                flags = {"blank": is_blank(image)}
                entry = {"flags": flags, "judges": seen, "clip_score": similar[i], "colour": border_colour(image)}
                found.append(entry)
        return found

    def _similarity(self, pixels: Tensor, prompts: list[str]) -> list[float]:
        seen = F.normalize(self.clip.encode_image(pixels).float(), dim=-1)
        read = F.normalize(self.clip.encode_text(encode(self.tokenizer, prompts).to(self.device)).float(), dim=-1)
        return [float(v) for v in (seen * read).sum(-1)]


def load_judges(
    device: torch.device | str = "cpu", folder: Path | None = None, tokenizer: Path | None = None
) -> Judges:
    """Load the bundled judges, or those of `folder`: conv, patch and clip as .safetensors, and clip.json.

    Raises `InputError` when a file is missing or does not fit.
    """
    folder = folder or asset("world/judges")
    tokenizer = tokenizer or asset("world/pipeline/tokenizer")
    device = torch.device(device)
    classifiers = {family: Classifier(family) for family in FAMILIES}
    for family, model in classifiers.items():
        _fill(model, folder / f"{family}.safetensors", device)
    clip = open_clip.CLIP(**_clip_config(folder / "clip.json"))
    _fill(clip, folder / "clip.safetensors", device)
    if not (tokenizer / "vocab.json").is_file() and not (tokenizer / "tokenizer.json").is_file():
        raise InputError(f"no tokenizer in {tokenizer}; install the package again, or rebuild with: erase world")
    return Judges(classifiers, clip, CLIPTokenizer.from_pretrained(tokenizer), device)


def judges_hash(folder: Path | None = None, tokenizer: Path | None = None) -> str:
    """SHA-256 over all that `load_judges` reads, for the report: scores of different judges are not comparable."""
    folder = folder or asset("world/judges")
    tokenizer = tokenizer or asset("world/pipeline/tokenizer")
    digest = hashlib.sha256()
    files = [*(folder / f"{name}.safetensors" for name in (*FAMILIES, "clip")), folder / "clip.json"]
    for file in (*files, *sorted(p for p in tokenizer.glob("*") if p.is_file())):
        try:
            digest.update(f"{file.name} {file_hash(file)}\n".encode())
        except OSError as error:
            raise InputError(f"judge file {file} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def check_image(image: np.ndarray, place: int = 0) -> None:
    """Refuse all but uint8 (H, W, 3): a float picture, rescaled by guess, would be judged as noise or as black."""
    kind = getattr(image, "dtype", type(image).__name__)
    shape = tuple(getattr(image, "shape", ()))
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(f"judges: image {place} is {kind} of shape {shape}; give uint8 of shape (H, W, 3), 0 to 255")


def is_blank(image: np.ndarray) -> bool:
    """One colour all over; NaN latents become this once they are cast to uint8."""
    return bool(image.reshape(-1, 3).std(0).max() < BLANK)


def border_colour(image: np.ndarray) -> str:
    """Palette name nearest (in RGB) to the median pixel of the border."""
    inside = np.zeros(image.shape[:2], dtype=bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    median = np.median(image[~inside], axis=0)
    return min(COLOURS, key=lambda name: float(((np.asarray(COLOURS[name]) - median) ** 2).sum()))


def _tensor(image: np.ndarray) -> Tensor:
    """(1, 3, 64, 64) in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    if pixels.shape[-2:] != (SIZE, SIZE):
        pixels = F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return pixels


def _classify(model: Classifier, pixels: Tensor) -> list[dict[str, Any]]:
    """Answers of one classifier."""
    objects, styles = model(pixels)
    of_object, of_style = objects.softmax(-1).max(-1), styles.softmax(-1).max(-1)
    names, kinds = (*OBJECT_NAMES, NONE), (*STYLE_NAMES, NONE)
    found = []
    for i in range(len(pixels)):
        thing, style = names[int(of_object.indices[i])], kinds[int(of_style.indices[i])]
        found.append(
            {
                "object": thing,
                "object_prob": float(of_object.values[i]),
                "style": style,
                "style_prob": float(of_style.values[i]),
                "abstain": thing == NONE and style == NONE,
            }
        )
    return found


def _clip_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"judge file {path} is missing; install the package again, or rebuild: erase world") from None
    except (OSError, ValueError):
        raise InputError(f"judge file {path} is not readable JSON; rebuild with: erase world") from None
    config = config.get("model_cfg", config)  # as open_clip publishes configs beside weights
    return {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}


def _fill(model: nn.Module, path: Path, device: torch.device) -> None:
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise InputError(f"judge file {path} is missing; install the package again, or rebuild: erase world") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        why = str(error).strip().splitlines()[0]
        raise InputError(f"judge file {path} does not fit ({why}); rebuild with: erase world") from None
    model.eval().requires_grad_(False).to(device)
