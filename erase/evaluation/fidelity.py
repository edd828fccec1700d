"""Inception's features by torch-fidelity: what makes a Frechet distance an FID, and a kernel distance a KID."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from erase.errors import InputError, first_line
from erase.evaluation.features import as_uint8
from erase.evaluation.judge import AUTO
from erase.runtime import file_hash, user_path

NAME = "weights-inception-2015-12-05-6726825d.pth"
DIGEST = "6726825d"  # how the SHA-256 of the published file begins, as its name says
BATCH = 32


def inception_file(given: str) -> Path:
    """The weights on this machine, checked; `AUTO` looks where torch keeps what it downloads. Never fetches them.

    Raises `InputError` without the package, without the file, saying where to get and to put it, and for another file:
    it is a pickle, and is opened only once its hash is the published one's.
    """
    if find_spec("torch_fidelity") is None:
        raise InputError("FID and KID need torch-fidelity; install it with: pip install 'erase[eval]'")
    path = Path(torch.hub.get_dir()) / "checkpoints" / NAME if given == AUTO else user_path(given)
    if not path.is_file():
        raise InputError(
            f"no Inception weights at {path}; get {NAME} from torch-fidelity's release v0.2.0, put it there"
        )
    try:
        digest = file_hash(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if not digest.startswith(DIGEST):
        raise InputError(f"{path} is not {NAME}: its SHA-256 begins {digest[:8]}, not {DIGEST}; get the published file")
    return path


@torch.inference_mode()
def inception_features(images: Sequence[np.ndarray], weights: Path, device: torch.device | str) -> np.ndarray:
    """The 2048 pooled features of torch-fidelity's InceptionV3, (N, 2048), of uint8 pictures (H, W, 3).

    torch-fidelity scales them to 299 pixels itself. `weights` are a file that `inception_file` passed;
    raises `InputError` where it is broken all the same.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # an extra

    try:
        torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity itself would run pickled code
        model = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )
    except Exception as error:  # whatever damaged weights make torch raise
        raise InputError(f"{weights} cannot be loaded ({first_line(error)}); get {NAME} again") from None
    model, found = model.to(device), []
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(as_uint8(np.stack(images[start : start + BATCH]))).permute(0, 3, 1, 2).contiguous()
        found.append(model(pixels.to(device))[0].float().cpu())
    return torch.cat(found).numpy()
