"""The bundled world's judges at work: two classifier families, a small CLIP, and the colour of the border."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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

from erase.errors import InputError, first_line
from erase.resources import asset
from erase.runtime import file_hash
from erase.world.captions import caption
from erase.world.judges import CLIP_FILES, Classifier
from erase.world.scenes import SIZE
from erase.world.vocabulary import COLOURS, OBJECT_NAMES, STYLE_NAMES

FAMILIES = ("conv", "patch")
CLIP = "clip"
NONE = "none"
# What a picture is compared with for a zero-shot answer: every object in every style. The sum over styles names the
# object and the other way round; bare names ("a cat") are short captions, which CLIP reads worse.
NAMING = "a {style} picture of a {object}"
BORDER = 2
BLANK = 3.0  # a deviation of 3 of 255 grey levels over a whole picture is less than any glyph makes

Tokenize = Callable[[list[str]], Tensor]
"""Texts -> token ids (N, L)."""


@dataclass(frozen=True, slots=True)
class Judges:
    """Loaded judges. `conv` is the one reported; `patch` is for tuning and attacks; `clip` names without training to.

    `named` (360, D) are CLIP's embeddings of every object in every style.
    """

    classifiers: dict[str, Classifier]
    clip: open_clip.CLIP
    tokenize: Tokenize
    named: Tensor
    device: torch.device

    @torch.inference_mode()
    def look(
        self, images: Sequence[np.ndarray], prompts: Sequence[str] | None = None, *, batch: int = 64
    ) -> list[dict[str, Any]]:
        """What every judge sees in each picture.

        `images` are uint8 of shape (H, W, 3); `prompts`, if given, one a picture. Each answer holds `flags` (reasons
        why there is no picture), `judges` (for each judge and domain the name, its probability `_prob` and the energy
        -log sum exp of the logits, which is high where a judge knows nothing; `abstain` if neither has a name; CLIP
        always has), `clip_score` (cosine of picture and prompt, or None), `embedding` (CLIP's of the picture, of length
        1) and `colour` (palette name nearest to the border). Raises `InputError` for any other type, shape or number
        of pictures.
        """
        for place, image in enumerate(images):
            check_image(image, place)
        if prompts is not None and len(prompts) != len(images):
            raise InputError(f"judges: {len(images)} images but {len(prompts)} prompts; give one a picture")
        found: list[dict[str, Any]] = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            pixels = torch.cat([_tensor(image) for image in part]).to(self.device)
            answers = {name: _answers(*model(pixels)) for name, model in self.classifiers.items()}
            drawn = F.normalize(self.clip.encode_image(pixels).float(), dim=-1)
            logits = (self.clip.logit_scale.exp() * drawn @ self.named.T).unflatten(1, (len(OBJECT_NAMES), -1))
            answers[CLIP] = _answers(logits.logsumexp(2), logits.logsumexp(1))
            similar: Sequence[float | None] = [None] * len(part)
            if prompts is not None:
                read = _read(self.clip, self.tokenize, prompts[start : start + batch], self.device)
                similar = (drawn * read).sum(-1).tolist()
            for i, image in enumerate(part):
                seen = {name: rows[i] for name, rows in answers.items()}
                found.append(
                    {
                        "flags": {"blank": is_blank(image)},
                        "judges": seen,
                        "clip_score": similar[i],
                        "embedding": drawn[i].cpu().numpy(),
                        "colour": border_colour(image),
                    }
                )
        return found


def load_judges(device: torch.device | str = "cpu", folder: Path | None = None) -> Judges:
    """Load the bundled judges, or those of `folder`: conv and patch as .safetensors, clip/ as open_clip publishes.

    Raises `InputError` when a file is missing or does not fit.
    """
    folder = folder or asset("world/judges")
    device = torch.device(device)
    classifiers = {family: Classifier(family) for family in FAMILIES}
    for family, model in classifiers.items():
        _fill(model, folder / f"{family}.safetensors", device)
    return Judges(classifiers, *_load_clip(folder / CLIP, device), device)


def judges_hash(folder: Path | None = None) -> str:
    """SHA-256 over all that `load_judges` reads, for the report: scores of different judges are not comparable."""
    folder = folder or asset("world/judges")
    digest = hashlib.sha256()
    for file in (*(folder / f"{name}.safetensors" for name in FAMILIES), *(folder / CLIP / n for n in CLIP_FILES)):
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


def _answers(objects: Tensor, styles: Tensor) -> list[dict[str, Any]]:
    """What logits (B, classes) of one judge say. A classifier's last class is none of the others, CLIP has no such."""
    found: list[dict[str, Any]] = [{} for _ in objects]
    for domain, names, logits in (("object", OBJECT_NAMES, objects), ("style", STYLE_NAMES, styles)):
        logits = logits.float().cpu()  # at once: each number read off a GPU waits for it
        best = logits.softmax(-1).max(-1)
        energy = -logits.logsumexp(-1)
        for i, entry in enumerate(found):
            entry[domain] = (*names, NONE)[int(best.indices[i])]
            entry[f"{domain}_prob"] = float(best.values[i])
            entry[f"{domain}_energy"] = float(energy[i])
    for entry in found:
        entry["abstain"] = entry["object"] == entry["style"] == NONE
    return found


def _load_clip(folder: Path, device: torch.device) -> tuple[open_clip.CLIP, Tokenize, Tensor]:
    """Model, tokenizer and the names' embeddings.

    Files are looked for here, since open_clip's own loader goes on with random weights where there are none.
    """
    for name in CLIP_FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"judge file {folder / name} is missing; install the package again, or rebuild: erase world"
            )
    try:
        clip = open_clip.create_model(f"local-dir:{folder}", device=device)
        if not isinstance(clip, open_clip.CLIP):
            raise ValueError(f"a {type(clip).__name__} and no CLIP")
        clip.eval().requires_grad_(False)
        tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
        with torch.inference_mode():
            captions = [caption(NAMING, thing, style, "") for thing in OBJECT_NAMES for style in STYLE_NAMES]
            named = _read(clip, tokenize, captions, device)
    except Exception as error:  # whatever a damaged file makes open_clip and transformers raise
        why = first_line(error)
        raise InputError(f"judge files in {folder} do not fit ({why}); rebuild with: erase world") from None
    return clip, tokenize, named


def _read(clip: open_clip.CLIP, tokenize: Tokenize, texts: Sequence[str], device: torch.device) -> Tensor:
    """Embeddings of texts, (N, D), of length 1."""
    return F.normalize(clip.encode_text(tokenize(list(texts)).to(device)).float(), dim=-1)


def _fill(model: nn.Module, path: Path, device: torch.device) -> None:
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise InputError(f"judge file {path} is missing; install the package again, or rebuild: erase world") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        why = first_line(error)
        raise InputError(f"judge file {path} does not fit ({why}); rebuild with: erase world") from None
    model.eval().requires_grad_(False).to(device)
