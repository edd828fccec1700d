"""Features of a run's pictures, kept beside them so that every distance can be computed again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from erase.errors import InputError
from erase.evaluation.judge import Embeds
from erase.evaluation.judges import Judges, judges_hash
from erase.evaluation.rows import ARMS, Row, image_sha
from erase.runtime import replacing
from erase.world.scenes import SIZE
from erase.world.vocabulary import OBJECT_NAMES, STYLE_NAMES

FILE = "features.safetensors"
BATCH = 64
CMMD = ("ViT-L-14-336", "openai")  # as open_clip calls what Jayasumana et al. (2024) take the embeddings of


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 3) as uint8, from uint8 of 0 to 255 or floats of 0 to 1, or `InputError`.

    Floats of -1 to 1, and uint8 that such floats were cast to (0, 1 and 255 alone), are refused: distances computed
    from these have been published.
    """
    found = np.asarray(images)
    if found.ndim != 4 or found.shape[3] != 3 or 0 in found.shape:
        raise InputError(f"pictures must be of shape (N, H, W, 3); got {found.shape}")
    if found.dtype == np.uint8:
        levels = set(np.unique(found).tolist())
        if 1 in levels and levels <= {0, 1, 255}:
            raise InputError("pictures hold 0, 1 and 255 alone: floats cast to uint8; scale them to 0..255 first")
        return found
    if found.dtype.kind != "f":
        raise InputError(f"pictures must be uint8 of 0 to 255 or floats of 0 to 1; got {found.dtype}")
    if not np.isfinite(found).all():
        raise InputError("pictures hold NaN or infinity")
    low, high = float(found.min()), float(found.max())
    if low < 0 or high > 1:
        raise InputError(
            f"float pictures must be of 0 to 1; got {low:.3g} to {high:.3g}: undo their normalisation first"
        )
    return (found * 255).round().astype(np.uint8)


def open_pictures(folder: Path, rows: Sequence[Row], order: Sequence[tuple[str, int]]) -> dict[str, list[np.ndarray]]:
    """The run's pictures of each arm in that order, uint8 (H, W, 3); one that is missing, or not the one that was
    judged, is an `InputError`."""
    files = {(row["arm"], row["prompt_id"], row["seed"]): row for row in rows}
    return {arm: [_judged(folder, files[arm, *key]) for key in order] for arm in ARMS}


def check_pictures(folder: Path, rows: Sequence[Row]) -> None:
    """Raises `InputError` for a picture that is not the one its row is about; those that are gone are not missed."""
    files = {(row["image"], row["image_sha"]): row for row in rows}
    for row in files.values():
        if os.path.isfile(folder / row["image"]):
            _judged(folder, row)


def _judged(folder: Path, row: Row) -> np.ndarray:
    image = _open(folder / row["image"])
    if image_sha(image) != row["image_sha"]:
        raise InputError(f"{folder / row['image']} is not the picture that was judged; evaluate the run again")
    return image


def _open(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # a broken PNG is a SyntaxError
        raise InputError(f"{path} is no picture any more; evaluate the run again") from None


@torch.inference_mode()
def judge_features(judges: Judges, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """What the reported judge and CLIP make of pictures: "conv", its last layer but one, and "clip", both (N, D)."""
    body = nn.Sequential(*list(judges.classifiers["conv"].body.children())[:-1])
    found: dict[str, list[torch.Tensor]] = {"conv": [], "clip": []}
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(as_uint8(np.stack(images[start : start + BATCH]))).permute(0, 3, 1, 2)
        pixels = pixels.to(judges.device).float() / 127.5 - 1
        if pixels.shape[-2:] != (SIZE, SIZE):
            pixels = F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        found["conv"].append(body(pixels).float().cpu())
        found["clip"].append(F.normalize(judges.clip.encode_image(pixels).float(), dim=-1).cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def similarities(judges: Judges, domain: str, targets: Sequence[str]) -> dict[str, float]:
    """Cosine of every class's name to the nearest target's: CLIP's text embeddings, averaged over the other domain
    and centred on the mean of all classes, since all names resemble each other.
    """
    table = judges.named.unflatten(0, (len(OBJECT_NAMES), len(STYLE_NAMES))).float().cpu()
    names, means = (OBJECT_NAMES, table.mean(1)) if domain == "object" else (STYLE_NAMES, table.mean(0))
    unit = F.normalize(means - means.mean(0), dim=-1)
    known = [names.index(target) for target in targets if target in names]
    if not known:
        return {}
    nearest = (unit @ unit[known].T).max(1).values.tolist()
    return dict(zip(names, nearest, strict=True))


def describe(features: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, str]:
    """What each feature is, for the report."""
    short = judges_hash()[:12]
    whose = {"conv": "last layer but one of the world's conv judge", "clip": "embeddings of the world's CLIP"}
    found = {
        name: f"{whose.get(name, name)}, {before.shape[1]} numbers, judges {short}"
        for name, (before, _) in features.items()
    }
    if "inception" in found:
        found["inception"] = "InceptionV3 by torch-fidelity, 2048 pooled numbers"
    return found


def clip_features(judge: Embeds, images: Sequence[np.ndarray]) -> tuple[str, str, np.ndarray]:
    """What a CLIP that judges makes of pictures: the feature's name, what it is, and the features (N, D).

    The name tells CMMD's own network from any other.
    """
    model, tag, sha = judge.facts["model"], judge.facts["pretrained"], judge.facts["weights"]["sha256"]
    found = judge.embed([*as_uint8(np.stack(images))])
    about = f"embeddings of {model}{f' ({tag})' if tag else ''}, {found.shape[1]} numbers, weights {sha[:12]}"
    return ("vit_l_14_336" if (model, tag) == CMMD else "open_clip"), about, found


def write_features(
    path: Path,
    order: Sequence[tuple[str, int]],
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    about: Mapping[str, str],
) -> None:
    """Keep features of both arms, what each is, and the (prompt id, seed) of each line. All or nothing."""
    arrays = {
        f"{name}.{arm}": np.ascontiguousarray(both[i]) for name, both in features.items() for i, arm in enumerate(ARMS)
    }
    with replacing(path) as temporary:
        try:
            told = {"pictures": json.dumps([list(key) for key in order]), "about": json.dumps(dict(about))}
            save_file(arrays, temporary, metadata=told)
        except SafetensorError as error:  # safetensors wraps a full disk in its own error
            raise InputError(f"cannot write {path}: {error}") from error


def read_features(path: Path) -> tuple[list[tuple[str, int]], dict[str, tuple[np.ndarray, np.ndarray]], dict[str, str]]:
    """What `write_features` kept. Raises `InputError` for a file that is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as opened:
            told = opened.metadata() or {}
            order = [(str(prompt), int(seed)) for prompt, seed in json.loads(told["pictures"])]
            about = {str(name): str(what) for name, what in dict(json.loads(told.get("about", "{}"))).items()}
            names = sorted({name.rpartition(".")[0] for name in opened.keys()})  # noqa: SIM118
            found = {name: (opened.get_tensor(f"{name}.before"), opened.get_tensor(f"{name}.after")) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged or missing ({error}); evaluate the run again") from None
    if any(part.ndim != 2 or len(part) != len(order) for both in found.values() for part in both):
        raise InputError(f"{path} is damaged (features of other pictures); evaluate the run again")
    return order, found, describe(found) | about  # files of earlier versions do not say
