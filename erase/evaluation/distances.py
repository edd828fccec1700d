"""How far the pictures moved as a whole: kernel and Frechet distances in stated features, beside a null of the same n.

Only with Inception's features is one called FID or KID, and only with those of OpenAI's CLIP ViT-L/14 at 336 pixels
CMMD; the others carry the name of theirs. Under no change a distance of finite sets is not 0 (Frechet's is biased
upward as 1 / n), so each is shown beside what before's own pictures, split in two, are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from erase.errors import InputError

GROUPS = 10  # of prompts, each left out once for the interval
LEAST = 20  # prompts below which halves would say nothing
MOST = 1000  # pictures an arm; of more prompts, evenly spaced ones are taken
SIGMA = 10.0

Distance = Callable[[np.ndarray, np.ndarray], float]
"""Features (N, D) and (N, D) -> how far the two sets are apart."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A distance between before and after over `n` pictures an arm, judged against a null of the same size.

    `value` is the mean over halvings of the prompts of the distance from one half before to the other half after, so
    that no picture meets its twin, `null` that of one half before to the other half before. `low` and `high` bound
    `value - null` (grouped jackknife, Student's t). `p` is that of swapping the twins of prompts. `features` says what
    was compared, `half` the pictures on each side of a halving.
    """

    name: str
    group: str
    features: str
    value: float
    null: float
    low: float
    high: float
    p: float
    n: int
    half: int

    @property
    def excess(self) -> float:
        return self.value - self.null


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (KID's, Binkowski et al. 2018): may fall below 0."""
    first, second = _sets(first, second)
    return float(_mmd(_cubic(np.concatenate([first, second])), *_halves(len(first)), unbiased=True)[0])


def clip_distance(first: np.ndarray, second: np.ndarray) -> float:
    """1000 times the biased squared MMD with a Gaussian kernel of sigma 10 on features of length 1.

    That is CMMD's form (Jayasumana et al. 2024); its bias is small and not 0, so it is read beside its null.
    """
    first, second = _sets(first, second)
    return float(_mmd(_gaussian(np.concatenate([first, second])), *_halves(len(first)), unbiased=False)[0])


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of means and covariances (Dowson and Landau 1982).

    The trace of the root is the sum of the singular values of X1c X2c' / (n - 1), X the centred features: as exact for
    fewer pictures than dimensions as for more.
    """
    first, second = _sets(first, second)
    return _frechet(first, second)


DISTANCES: dict[str, tuple[str, Distance]] = {
    "KD_conv": ("conv", kernel_distance),
    "FD_conv": ("conv", frechet_distance),
    "CMMD_clip": ("clip", clip_distance),
    "CMMD": ("vit_l_14_336", clip_distance),
    "CMMD_open_clip": ("open_clip", clip_distance),
    "FID": ("inception", frechet_distance),
    "KID": ("inception", kernel_distance),
}


def check_features(features: np.ndarray, what: str) -> np.ndarray:
    """As float64 (N, D), finite, or `InputError`."""
    found = np.asarray(features)
    if found.ndim != 2 or not len(found) or not found.shape[1] or found.dtype.kind != "f":
        raise InputError(
            f"{what}: features must be floats of shape (pictures, dimensions); got {found.dtype} {found.shape}"
        )
    if not np.isfinite(found).all():
        raise InputError(f"{what}: features hold NaN or infinity; look at the pictures they were made from")
    return found.astype(np.float64)


def shift(
    name: str,
    group: str,
    before: np.ndarray,
    after: np.ndarray,
    prompts: Sequence[str],
    *,
    about: str = "",
    seed: int = 0,
) -> Shift:
    """One of `DISTANCES` between twins: `before[i]` and `after[i]`, (N, D), are of prompt `prompts[i]` and one seed.

    Raises `InputError` for another name, arms of unequal size, prompts with unequal numbers of pictures, and fewer than
    `LEAST` prompts.
    """
    if name not in DISTANCES:
        raise InputError(f"distance {name!r} is not known; use one of {', '.join(DISTANCES)}")
    before, after = _sets(before, after)
    before, after, prompts = _thinned(before, after, prompts)
    names, owner = np.unique(np.asarray(prompts), return_inverse=True)
    measure = _Frechets(before, after) if DISTANCES[name][1] is frechet_distance else _Kernels(before, after, name)
    rng = np.random.default_rng(seed)
    value, null = _split_means(measure, owner, np.arange(len(names)), rng)
    low, high = _jackknife(measure, owner, len(names), value - null, seed)
    swaps = rng.integers(2, size=(measure.permutations, len(names))).astype(bool)[:, owner]
    seen, others = measure.swapped(np.zeros((1, len(owner)), dtype=bool))[0], measure.swapped(swaps)
    p = (1 + int((others >= seen - 1e-9 * max(1.0, abs(seen))).sum())) / (1 + len(others))
    size = len(owner) // len(names)
    half = len(names) // 2 * size
    return Shift(name, group, about, value, null, min(low, value - null), max(high, value - null), p, len(owner), half)


class _Kernels:
    """Kernel of all pictures with all, once; every split and swap is then a sum over it."""

    splits, permutations = 20, 499

    def __init__(self, before: np.ndarray, after: np.ndarray, name: str) -> None:
        both = np.concatenate([before, after])
        self.unbiased = DISTANCES[name][1] is kernel_distance
        self.kernel, self.n = (_cubic if self.unbiased else _gaussian)(both), len(before)

    def between(self, first: np.ndarray, second: np.ndarray, arm: int) -> np.ndarray:
        """Distances from `first` before to `second` of arm 0 (before) or 1, masks (splits, N)."""
        nothing = np.zeros_like(first)
        one = np.concatenate([first, nothing], axis=1)
        two = np.concatenate([nothing, second] if arm else [second, nothing], axis=1)
        return _mmd(self.kernel, one, two, unbiased=self.unbiased)

    def swapped(self, swaps: np.ndarray) -> np.ndarray:
        """Distances of all before from all after once the twins of `swaps` (times, N) have changed places."""
        one = np.concatenate([~swaps, swaps], axis=1)
        return _mmd(self.kernel, one, ~one, unbiased=self.unbiased)


class _Frechets:
    """Frechet distances, one by one: there is nothing that splits share."""

    splits, permutations = 8, 99

    def __init__(self, before: np.ndarray, after: np.ndarray) -> None:
        self.arms, self.n = (before, after), len(before)

    def between(self, first: np.ndarray, second: np.ndarray, arm: int) -> np.ndarray:
        pairs = zip(first.astype(bool), second.astype(bool), strict=True)
        return np.array([_frechet(self.arms[0][a], self.arms[arm][b]) for a, b in pairs])

    def swapped(self, swaps: np.ndarray) -> np.ndarray:
        before, after = self.arms
        return np.array(
            [_frechet(np.where(s[:, None], after, before), np.where(s[:, None], before, after)) for s in swaps]
        )


def _split_means(
    measure: _Kernels | _Frechets, owner: np.ndarray, kept: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Mean over random halvings of the kept prompts: (half before to other half after, to other half before)."""
    half = len(kept) // 2
    orders = np.stack([rng.permutation(kept) for _ in range(measure.splits)])
    first, second = (
        np.stack([np.isin(owner, part) for part in parts]) for parts in (orders[:, :half], orders[:, half : 2 * half])
    )
    moved = measure.between(first, second, 1), measure.between(second, first, 1)
    return float(np.mean(moved)), float(measure.between(first, second, 0).mean())


def _jackknife(
    measure: _Kernels | _Frechets, owner: np.ndarray, prompts: int, excess: float, seed: int
) -> tuple[float, float]:
    """Interval of the excess over its null: groups of prompts left out in turn, Student's t at G - 1."""
    rng = np.random.default_rng([seed, 1])
    groups = np.array_split(rng.permutation(prompts), GROUPS)
    left = []
    for group in groups:
        value, null = _split_means(
            measure, owner, np.setdiff1d(np.arange(prompts), group), np.random.default_rng([seed, 2])
        )
        left.append(value - null)
    variance = (GROUPS - 1) / GROUPS * float(((np.array(left) - np.mean(left)) ** 2).sum())
    half = float(stats.t.ppf(0.975, GROUPS - 1)) * variance**0.5
    return excess - half, excess + half


def _thinned(before: np.ndarray, after: np.ndarray, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Sorted by prompt, at most `MOST` pictures an arm of evenly spaced prompts."""
    if len(prompts) != len(before):
        raise InputError(f"distances: {len(before)} pictures but {len(prompts)} prompts; name one a picture")
    names, times = np.unique(np.asarray(prompts), return_counts=True)
    if len(names) < LEAST:
        raise InputError(f"distances need {LEAST} prompts or more; got {len(names)}; raise evaluate.prompts (--count)")
    if len(set(times.tolist())) > 1:
        raise InputError("distances: prompts have unequal numbers of pictures; evaluate the run again")
    room = max(LEAST, MOST // int(times[0]))
    if len(names) > room:
        names = names[np.linspace(0, len(names) - 1, room).round().astype(int)]
    order = np.argsort(np.asarray(prompts), kind="stable")
    order = order[np.isin(np.asarray(prompts)[order], names)]
    return before[order], after[order], [str(prompts[i]) for i in order.tolist()]


def _sets(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = check_features(first, "distances"), check_features(second, "distances")
    if first.shape != second.shape:
        raise InputError(
            f"distances: {len(first)} and {len(second)} pictures of {first.shape[1]} and {second.shape[1]} features; "
            "a distance depends on n, so compare equal numbers in one feature"
        )
    if len(first) < 2:
        raise InputError("distances need 2 pictures or more on each side")
    return first, second


def _halves(n: int) -> tuple[np.ndarray, np.ndarray]:
    one = np.concatenate([np.ones(n), np.zeros(n)])[None]
    return one, 1 - one


def _cubic(features: np.ndarray) -> np.ndarray:
    return (features @ features.T / features.shape[1] + 1) ** 3


def _gaussian(features: np.ndarray) -> np.ndarray:
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return np.exp((unit @ unit.T - 1) / SIGMA**2)


def _mmd(kernel: np.ndarray, first: np.ndarray, second: np.ndarray, *, unbiased: bool) -> np.ndarray:
    """Squared MMD between index sets given as masks (times, N): (times,)."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    one, two = first @ kernel, second @ kernel
    n, m = first.sum(1), second.sum(1)
    cross = (one * second).sum(1) / (n * m)
    inside = [(one * first).sum(1), (two * second).sum(1)]
    if unbiased:
        diagonal = np.diagonal(kernel)
        own = [(inside[0] - first @ diagonal) / (n * (n - 1)), (inside[1] - second @ diagonal) / (m * (m - 1))]
        return own[0] + own[1] - 2 * cross
    return 1000 * (inside[0] / n**2 + inside[1] / m**2 - 2 * cross)


def _frechet(first: np.ndarray, second: np.ndarray) -> float:
    one, two = first - first.mean(0), second - second.mean(0)
    scale = len(first) - 1
    if len(first) > first.shape[1]:  # with X = Q R they are those of R1 R2': D x D instead of N x N
        one, two = (np.asarray(np.linalg.qr(part, mode="r")) for part in (one, two))
    root = one @ two.T
    trace = float(np.linalg.svd(root, compute_uv=False).sum()) / scale
    gap = first.mean(0) - second.mean(0)
    return float(gap @ gap + ((one**2).sum() + (two**2).sum()) / scale - 2 * trace)
