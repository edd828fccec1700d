"""Batches drawn at the same time, a thread each: the same pictures in the same places, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from erase.attacks.subject import Subject, noise_of, walk
from erase.errors import EraseError, Interrupted
from erase.events import Event, Progress
from erase.models import Model
from erase.sampling import LEAST_EACH, Shot, at_once, drawing, hands, sample
from tests.integration.conftest import build_tiny
from tests.integration.test_attacks import make_subject

SHOTS = [Shot(f"a {name}", f"{name}/{i}", i) for i in range(15) for name in ("cat", "dog", "fox")]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def far(one: list[np.ndarray], other: list[np.ndarray]) -> int:
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(one, other, strict=True))


def test_two_draw_what_one_draws(tiny_model: Model) -> None:
    assert hands(tiny_model, len(SHOTS)) == 2
    alone = sample(tiny_model, SHOTS, steps=3, batch=len(SHOTS))
    assert far(alone, alone[1:] + alone[:1]) > 1
    seen: list[int] = []
    together = sample(tiny_model, SHOTS, steps=3, seen=lambda place, _: seen.append(place))
    assert far(together, alone) <= 1
    assert seen == list(range(len(SHOTS)))


def test_every_thread_draws_a_part_with_its_share_of_the_cores(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    drew: dict[str, int] = {}
    decode = type(tiny_model).decode

    def noted(model: Model, latents: torch.Tensor) -> torch.Tensor:
        barrier.wait()  # no thread has both parts
        drew[threading.current_thread().name] = torch.get_num_threads()
        return decode(model, latents)

    barrier = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(type(tiny_model), "decode", noted)
    sample(tiny_model, SHOTS, steps=1)
    assert drew == {"drawing_0": 1, "drawing_1": 1}
    assert torch.get_num_threads() == 2
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


@pytest.mark.parametrize("count", [1, LEAST_EACH, 2 * LEAST_EACH - 1])
def test_few_pictures_are_drawn_by_one(tiny_model: Model, count: int) -> None:
    assert hands(tiny_model, count) == 1


def test_large_pictures_are_drawn_by_one(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny_model), "latent_shape", (4, 64, 64))
    assert at_once(tiny_model) == 4
    assert hands(tiny_model, 100) == 1


def test_a_stop_and_a_broken_model_end_both(tiny_model: Model) -> None:
    said: list[Event] = []
    shots = [Shot("a cat", f"{i}", i) for i in range(80)]
    with pytest.raises(Interrupted, match="64 of 80 pictures done"):
        sample(tiny_model, shots, steps=1, on_event=said.append, should_stop=lambda: bool(said))
    assert isinstance(said[0], Progress) and said[0].done == 64
    with torch.no_grad():
        next(tiny_model.unet.parameters()).fill_(float("nan"))
    with pytest.raises(EraseError, match="NaN or infinity in the latents of 'a cat'"):
        sample(tiny_model, SHOTS, steps=1)
    lost: set[int] = set()
    sample(tiny_model, SHOTS, steps=1, broken="blank", lost=lost)
    assert lost == set(range(len(SHOTS)))
    assert torch.get_num_threads() == 2


def test_who_leaves_does_not_wait_for_what_is_under_way(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, steps = threading.Event(), 0
    predict = type(tiny_model).predict

    def noted(model: Model, *given: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        under_way.set()
        return predict(model, *given)

    monkeypatch.setattr(type(tiny_model), "predict", noted)
    shots = SHOTS[: 2 * LEAST_EACH]

    with pytest.raises(KeyboardInterrupt), drawing(2) as each:
        each(lambda part: sample(tiny_model, part, steps=999, batch=LEAST_EACH), [shots, shots])
        under_way.wait(60)
        raise KeyboardInterrupt  # the second Ctrl-C
    assert 0 < steps < 100


def test_attacks_walk_side_by_side_to_the_same_latents() -> None:
    subject: Subject = make_subject(build_tiny())
    noise = noise_of(subject).repeat(9, 1, 1, 1)
    text = subject.model.encode(["a cat"] * len(noise))
    assert hands(subject.model, len(noise)) == 2
    together = walk(subject, text, noise)
    torch.set_num_threads(1)
    torch.testing.assert_close(together, walk(subject, text, noise), rtol=1e-4, atol=1e-4)
