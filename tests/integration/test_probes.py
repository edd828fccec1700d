"""Words between a prompt's own, and noise in every step, on a tiny untrained model.

Run: pytest tests/integration/test_probes.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from erase.attacks import inject, noise_probe
from erase.attacks.subject import noise_of
from erase.attacks.table import ATTACKS
from erase.models import Hiding
from erase.models.noising import PROCESSES
from erase.sampling import develop, sample
from tests.integration.conftest import build_tiny
from tests.integration.test_attacks import BUDGET, make_subject


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_vectors_stand_between_the_words_of_prompts_of_any_length(family: str) -> None:
    model = make_subject(build_tiny(family)).model
    words = inject.vocabulary(model, [])[100:103]
    prompts = ["a flat cat on red", "cat", "a picture of a cat, blue background"]
    parts = [inject.parted(prompt, 3, model) for prompt in prompts]
    assert parts[:2] == [["a", "flat cat", "on red"], ["", "", "cat"]]
    said = [" ".join(inject.spell(model, [word], part) for word, part in zip(words, own, strict=True)) for own in parts]
    ids, slots = inject.interleaved(model, parts)
    own = [table.detach()[words][None].expand(3, -1, -1) for table in inject.tables(model)]
    with torch.no_grad():
        text, wanted = inject.read_with(model, ids, slots, own), model.encode(said)
    clips = sum(getattr(model, part).config.hidden_size for part in model.clips)
    states = [read.states[:, : model.length(model.tokenizers[0]), :clips] for read in (text, wanted)]
    assert torch.allclose(*states, atol=1e-5), "of T5, which no slot reaches, the words are those of the prompt"


def test_a_prompt_too_long_is_cut_so_that_every_word_has_its_place() -> None:
    model = make_subject(build_tiny()).model
    parts = inject.parted("a cat on red " * 50, 3, model)
    ids, slots = inject.interleaved(model, [parts])
    assert int(ids[0][0, -1]) == model.tokenizer.eos_token_id and int(slots.max()) < ids[0].shape[1] - 1
    assert inject.parted("a cat", 3, model) == ["", "a", "cat"] and inject.parted("", 3, model) == ["", "", ""]
    assert inject.parted("a cat", 10_000, model) == [""] * 10_000


@pytest.mark.parametrize("hiding", [None, Hiding((("cat", ""),))])
def test_p4d_k_keeps_the_prompts_words_and_puts_its_own_between(hiding: Hiding | None) -> None:
    subject = make_subject(build_tiny())
    subject.model.hiding = hiding
    found = ATTACKS["p4d_k"].run(subject, BUDGET)
    (first, *_) = [t.prompt.split() for t in found if t.case.prompt == "a flat cat on red"]
    left = ["a", "flat", "cat", "on", "red"] if hiding is None else ["a", "flat", "on", "red"]
    assert first[1 : 1 + len(left) // 2] + first[2 + len(left) // 2 :] == left
    placed = {subject.model.tokenizer(first[i], add_special_tokens=False).input_ids[0] for i in (0, 1 + len(left) // 2)}
    assert placed <= set(subject.vocabulary())
    assert ATTACKS["p4d_k"].control == "random_prefix"
    assert [t.prompt for t in ATTACKS["p4d_k"].run(replace(subject, seed=5, memo={}), BUDGET)] != [
        t.prompt for t in found
    ]


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_without_extra_noise_the_sampler_is_the_runs_own(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject(build_tiny(family))
    latents = noise_probe._strayed(subject, 1, 0.0)
    plain = sample(subject.model, [subject.shot(case, 1) for case in subject.cases], steps=3, guidance=3.0)
    assert all((a == b).all() for a, b in zip(develop(subject.model, latents)[0], plain, strict=True))
    strayed = [noise_probe._strayed(subject, 1, eta) for eta in (1.0, 1.0, 1.85)]
    assert (
        torch.equal(*strayed[:2])
        and not torch.allclose(strayed[0], strayed[2])
        and not torch.allclose(latents, strayed[0])
    )
    monkeypatch.setattr("erase.attacks.subject.at_once", lambda model: 1)
    assert torch.allclose(noise_probe._strayed(subject, 1, 1.0), strayed[0], atol=1e-5), "whatever the batch"


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_up_to_eta_1_a_step_is_that_of_diffusers(predicts: str, eta: float) -> None:
    from diffusers import DDIMScheduler

    solver = DDIMScheduler(prediction_type=predicts, clip_sample=False, set_alpha_to_one=False)
    solver.set_timesteps(10)
    now, then = solver.timesteps[3:5]
    x, predicted, fresh = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    process = PROCESSES[predicts]
    wanted = solver.step(predicted, now, x, eta=eta, variance_noise=fresh).prev_sample
    after = solver.step(predicted, now, x).prev_sample
    known = [process.parts(solver, time) for time in (now, then)]
    found = noise_probe.stirred(process, *known, x, after, predicted, eta, fresh)
    assert torch.allclose(found, wanted, atol=1e-5) and not torch.allclose(after, wanted, atol=1e-2)


@pytest.mark.parametrize("predicts", list(PROCESSES))
def test_a_prediction_means_the_noise_that_it_was_made_of(predicts: str) -> None:
    model = build_tiny("sd3" if predicts == "flow" else "sd1")
    process, (clean, noise) = PROCESSES[predicts], torch.randn(2, 3, 4, 8, 8)
    a, b = (part[:, None, None, None] for part in process.parts(model.scheduler, torch.tensor([1, 500, 900])))
    wanted = process.target(clean, noise, a, b)
    assert torch.allclose(process.noise(wanted, a * clean + b * noise, a, b), noise, atol=1e-5)


def test_the_probe_starts_from_its_controls_noises() -> None:
    subject = make_subject(build_tiny())
    ours, theirs = (ATTACKS[name].run(subject, BUDGET) for name in ("noise_probe", "seed_search"))
    assert {(t.case.prompt_id, t.number, t.shot.seed) for t in ours} == {
        (t.case.prompt_id, t.number, t.shot.seed) for t in theirs
    }
    assert {t.step for t in ours} == {"eta 1", "eta 1.2"} and {t.prompt for t in ours} == {
        c.prompt for c in subject.cases
    }
    assert noise_of(subject, 1).shape == noise_probe._strayed(subject, 1, 1.0).shape
