"""FID and KID: the same numbers as torch-fidelity's, and weights that are checked before they are opened."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from erase.errors import InputError
from erase.evaluation import fidelity
from erase.evaluation.distances import frechet_distance, kernel_distance
from erase.evaluation.fidelity import NAME, inception_features, inception_file


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_the_formulas_are_torch_fidelitys():
    metrics = pytest.importorskip("torch_fidelity.metric_fid"), pytest.importorskip("torch_fidelity.metric_kid")
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(60, 24)), rng.normal(size=(60, 24)) * 1.2 + 0.2
    stats = [metrics[0].fid_features_to_statistics(torch.from_numpy(part)) for part in (first, second)]
    fid = metrics[0].fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(first, second) == pytest.approx(fid, rel=1e-6)
    kernel = {
        "kid_kernel": "poly",
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1,
    }
    options = {
        "kid_subsets": 1,
        "kid_subset_size": 60,
        "rng_seed": 0,
        "verbose": False,
        "kid_kernel_poly_coef0": 1.0,
    } | kernel
    kid = metrics[1].kid_features_to_metric(torch.from_numpy(first), torch.from_numpy(second), **options)
    assert kernel_distance(first, second) == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-6)


def test_weights_that_are_missing_are_named_with_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "find_spec", lambda name: name)
    with pytest.raises(
        InputError, match=f"no Inception weights at .*none.pth; get {NAME} from torch-fidelity's release"
    ):
        inception_file(str(tmp_path / "none.pth"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=f"checkpoints/{NAME}; get"):
        inception_file("auto")
    monkeypatch.setattr(fidelity, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="erase\\[eval\\]"):
        inception_file("auto")


def test_other_weights_are_refused_unopened_and_code_in_them_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "find_spec", lambda name: name)
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(InputError, match="its SHA-256 begins [0-9a-f]{8}, not 6726825d"):
        inception_file(str(path))
    monkeypatch.setattr(fidelity, "file_hash", lambda path: "6726825d" + "0" * 56)
    assert inception_file(str(path)) == path
    pytest.importorskip("torch_fidelity")
    with pytest.raises(InputError, match="cannot be loaded"):
        inception_features([np.zeros((8, 8, 3), np.uint8)], path, "cpu")
    assert not trace.exists()


def test_pictures_reach_inception_as_bytes_in_order(tmp_path, monkeypatch):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    seen: list[tuple[torch.dtype, tuple[int, ...]]] = []

    class Stub(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            assert features == ["2048"] and feature_extractor_weights_path.endswith("w.pth")

        def forward(self, pixels):
            seen.append((pixels.dtype, tuple(pixels.shape)))
            return (pixels.float().mean((1, 2, 3))[:, None],)

    monkeypatch.setattr(module, "FeatureExtractorInceptionV3", Stub)
    torch.save({}, tmp_path / "w.pth")
    found = inception_features([np.full((8, 8, 3), i + 2, np.uint8) for i in range(40)], tmp_path / "w.pth", "cpu")
    assert found[:, 0].tolist() == [i + 2 for i in range(40)]
    assert seen == [(torch.uint8, (32, 3, 8, 8)), (torch.uint8, (8, 3, 8, 8))]
