"""Attacks on a tiny untrained model: budgets, searches, and that nothing is left behind.

Run: pytest tests/integration/test_attacks.py
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from erase.attacking import shared_plan
from erase.attacks import audit, examples, head_start, inject, relearning, ring_a_bell
from erase.attacks import concept_inversion as inversion
from erase.attacks import subject as subjects
from erase.attacks.bank import noised, original_bank
from erase.attacks.budget import LEVELS, Budget
from erase.attacks.estimate import expected, measure
from erase.attacks.subject import Subject, noise_of, originally, targets, untouched
from erase.attacks.table import ATTACKS, TOKENS, chosen
from erase.attacks.unlearn_diff_atk import prefix_loss
from erase.concept import Concept, Request
from erase.errors import InputError, Interrupted
from erase.evaluation.prompts import Ask
from erase.models import Hiding, Model, model_hash, put_tensors, select
from erase.sampling import develop, sample
from erase.scoring import content_hash
from tests.integration.conftest import build_tiny

CAT = Request((Concept("cat", keep=("dog", "fox")),))
BUDGET = Budget(
    cases=2, pictures=2, steps=3, tokens=2, iterations=4, lr=0.2, between=2, length=3, population=6, generations=2,
    examples=2, inversion_steps=2, relearn_pictures=(1, 2), relearn_steps=(1,), audit_words=3, audit_pairs=3,
)  # fmt: skip


def ask(prompt: str, seed: int) -> Ask:
    return Ask("forget", prompt, f"id-{seed}", "t", seed, {"object": "cat", "style": None, "colour": None})


def make_subject(model: Model, pattern: str = "xattn") -> Subject:
    before = {name: p.detach().clone() for name, p in select(model, pattern).items()}
    after = {name: value + 0.05 * torch.ones_like(value) for name, value in before.items()}
    put_tensors(model, after)
    cases = (ask("a flat cat on red", 0), ask("a picture of a cat, blue background", 1))
    return Subject(model, CAT, cases, before, after, steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    yield make_subject(build_tiny())


def whole(model: Model) -> list[tuple[str, bool]]:
    """Every tensor's bytes and whether it trains."""
    return [
        (hashlib.sha256(p.detach().numpy().tobytes()).hexdigest(), p.requires_grad)
        for part in model.weighted.values()
        for p in part.parameters()
    ]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_has_its_budget_and_leaves_no_trace(subject: Subject, name: str) -> None:
    before, hooks = whole(subject.model), len(subject.model.text_encoder.get_input_embeddings()._forward_hooks)
    with untouched(subject):
        found = ATTACKS[name].run(subject, BUDGET)
    assert whole(subject.model) == before
    assert len(subject.model.text_encoder.get_input_embeddings()._forward_hooks) == hooks == 0
    assert not any(p.grad is not None for p in subject.model.unet.parameters())
    counts = {case: [t.number for t in found if t.case.prompt_id == case] for case in {t.case.prompt_id for t in found}}
    assert len(counts) == (3 if name.startswith("audit") else 2)
    pictures = 1 if name.startswith("audit") or name == "prompt_before" else 2
    assert all(numbers == list(range(1, pictures + 1)) for numbers in counts.values())
    assert all(t.image.dtype == np.uint8 and not t.lost for t in found)


def test_an_attack_and_its_control_have_equal_pictures(subject: Subject) -> None:
    own = "unlearn_diff_atk", "p4d", "ring_a_bell", "concept_inversion", "image_to_image", "relearning", "audit_pairs"
    for name in own:
        control = ATTACKS[name].control
        assert control
        ours, theirs = (ATTACKS[one].run(subject, BUDGET) for one in (name, control))
        assert sorted((t.case.prompt_id, t.number) for t in ours) == sorted(
            (t.case.prompt_id, t.number) for t in theirs
        )
        if name != "audit_pairs":  # the same noises too: what differs is the attack
            assert sorted((t.shot.prompt_id, t.shot.seed) for t in ours) == sorted(
                (t.shot.prompt_id, t.shot.seed) for t in theirs
            )


def test_a_picture_is_noised_by_another_noise_than_made_it(subject: Subject) -> None:
    found = ATTACKS["image_to_image"].run(subject, replace(BUDGET, pictures=5))
    assert {t.shot.seed != t.case.seed for t in found} == {True}
    assert len({t.shot.seed for t in found if t.case is subject.cases[0]}) == 2  # the fifth begins anew


def test_ring_a_bell_looks_for_the_whole_prompt_and_more_of_the_concept(subject: Subject) -> None:
    with subjects.originally(subject):
        plain = subject.model.encode([case.prompt for case in subject.cases]).states
        v = ring_a_bell.direction(subject)
    assert torch.allclose(ring_a_bell.wanted_states(subject), plain + ring_a_bell.ETA * v)


def test_other_neighbours_or_concepts_are_another_plan(subject: Subject) -> None:
    near = Request((Concept("cat", keep=("dog",)),))
    later = Request(CAT.concepts, (Concept("ghost"),))
    plans = [shared_plan(BUDGET, replace(subject, request=request, memo={}), []) for request in (CAT, near, later)]
    assert plans[0] == shared_plan(BUDGET, subject, []) and len({content_hash(plan) for plan in plans}) == 3


@pytest.mark.parametrize("pattern", ["xattn", "full"])
def test_a_large_network_is_tuned_alike_whatever_a_run_changed(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject(build_tiny(), pattern)
    monkeypatch.setattr(relearning, "WHOLE", 0)
    own = [id(p) for p in select(subject.model, "xattn").values()]
    with relearning.trainable(subject) as weights:
        assert sorted(map(id, weights)) == sorted(own)


def test_the_word_is_learned_under_its_pictures_own_captions(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    read, renamed = [], inversion.renamed
    monkeypatch.setattr(
        inversion, "renamed", lambda model, prompts, *how: read.append(prompts) or renamed(model, prompts, *how)
    )
    drawn, sample_ = [], examples.sample
    monkeypatch.setattr(
        examples, "sample", lambda model, shots, **how: drawn.append(shots) or sample_(model, shots, **how)
    )
    inversion.invert(replace(subject, memo={}), replace(BUDGET, inversion_steps=1), 7)
    assert read == [[shot.prompt for shot in drawn[0]][: BUDGET.examples]] and len(read[0]) == 2


@pytest.mark.parametrize("level", LEVELS)
def test_no_control_has_fewer_pictures_than_its_attack(subject: Subject, level: str) -> None:
    """Relearning has a picture for each of its doses, however many a search has."""
    of = LEVELS[level]
    pictures = min(of.pictures, 4)
    budget = replace(BUDGET, pictures=pictures, relearn_pictures=(1,) * of.doses, relearn_steps=(1,), cases=1)
    alone = replace(subject, cases=subject.cases[:1], memo={}, steps=1)
    search, tuned = (ATTACKS[name].run(alone, budget) for name in ("seed_search", "benign"))
    assert len(tuned) == of.doses and len(search) == max(pictures, of.doses)
    assert ATTACKS["seed_search"].cost(of).pictures == of.cases * max(of.pictures, of.doses)


def test_the_same_seed_makes_the_same_attack(subject: Subject) -> None:
    fresh = replace(subject, memo={})
    for name in ("unlearn_diff_atk", "p4d", "ring_a_bell"):
        one, two = (ATTACKS[name].run(s, BUDGET) for s in (subject, fresh))
        assert [t.prompt for t in one] == [t.prompt for t in two]
        other = ATTACKS[name].run(replace(subject, seed=5, memo={}), BUDGET)
        assert [t.prompt for t in other] != [t.prompt for t in one]


def test_the_prefix_gradient_is_that_of_finite_differences() -> None:
    subject = make_subject(build_tiny())
    model = subject.model
    for part in model.weighted.values():
        part.double()
    words = inject.vocabulary(model, ["cat"])[:50]
    assert len(words) == 50
    ids, slots = inject.prefixed(model, [case.prompt for case in subject.cases], 2)
    rows = [table.detach()[words] for table in inject.tables(model)]
    generator = torch.Generator().manual_seed(0)
    given = noised(model, torch.randn(2, *model.latent_shape, generator=generator, dtype=torch.float64), 3)
    given = replace(given, noisy=given.noisy.double(), wanted=given.wanted.double())
    predict = type(model).predict

    def exact(self: Model, noisy: torch.Tensor, times: torch.Tensor, text: object) -> torch.Tensor:
        return self.unet(noisy, times, text.states).sample  # type: ignore[attr-defined]

    weights = torch.rand(2, 2, 50, generator=generator, dtype=torch.float64)
    weights = (weights / weights.sum(-1, keepdim=True)).requires_grad_(True)
    type(model).predict = exact  # its own rounds to float32
    try:
        loss = prefix_loss(model, ids, slots, rows, weights, given).sum()
        (slope,) = torch.autograd.grad(loss, weights)
        for place in ((0, 0, 3), (0, 1, 49), (1, 0, 17), (1, 1, 0)):
            step = torch.zeros_like(weights)
            step[place] = 1e-4
            with torch.no_grad():
                up, down = (prefix_loss(model, ids, slots, rows, weights + s, given).sum() for s in (step, -step))
            assert float(slope[place]) == pytest.approx(float((up - down) / 2e-4), rel=1e-4, abs=1e-9)
    finally:
        type(model).predict = predict
    assert float(slope.abs().max()) > 0
    assert float(slope[0].abs().sum()) != float(slope[1].abs().sum())


def test_vectors_stand_in_the_place_of_tokens(subject: Subject) -> None:
    """Injecting the words' own embeddings reads the prompt that has these words."""
    model = subject.model
    words = inject.vocabulary(model, [])[100:103]
    said = inject.spell(model, words, "a cat")
    ids, slots = inject.prefixed(model, ["a cat"], 3)
    own = [table.detach()[words][None] for table in inject.tables(model)]
    with torch.no_grad():
        text = inject.read_with(model, ids, slots, own)
        assert torch.allclose(text.states, model.encode([said]).states, atol=1e-6)
        assert not torch.allclose(inject.read_with(model, ids, slots, [own[0] * 2]).states, text.states, atol=1e-4)


def test_found_words_are_read_back_as_they_were_optimised(subject: Subject) -> None:
    words = inject.vocabulary(subject.model, ["cat"])
    drawn = np.random.default_rng(0).choice(words, size=10).tolist()
    text = inject.spell(subject.model, drawn)
    assert subject.model.tokenizer(text, add_special_tokens=False).input_ids == drawn
    (cat,) = subject.model.tokenizer("cat", add_special_tokens=False).input_ids
    assert cat not in words
    assert cat in inject.vocabulary(subject.model, [])


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_inversion_changes_one_row_alone(family: str) -> None:
    subject = make_subject(build_tiny(family), "xattn")
    model = subject.model
    before = [table.detach().clone() for table in inject.tables(model)]
    row = inversion.spare_row(model, tuple(model.ids([c.prompt for c in subject.cases], n) for n in model.tokenizers))
    vectors = inversion.invert(subject, replace(BUDGET, examples=1, inversion_steps=1), row)
    with inversion.learned_word(model, row, vectors):
        for table, old, value in zip(inject.tables(model), before, vectors, strict=True):
            changed = (table != old).any(1).nonzero().flatten().tolist()
            assert changed == [row]
            assert torch.equal(table[row], value)
    assert all(torch.equal(table, old) for table, old in zip(inject.tables(model), before, strict=True))


def test_the_new_word_takes_the_place_of_the_name(subject: Subject) -> None:
    model = subject.model
    ids, places = inversion.renamed(model, ["a cat on red", "an ice cream", "a dog"], "cat", 7)
    assert places.flatten().tolist() == [2, 1, 1]  # without the name it comes first
    assert [line.count(7) for line in ids[0].tolist()] == [1, 1, 1]
    joined, _ = inversion.renamed(model, ["a jr., on red"], "jr.", 7)  # read as jr and .,
    assert not {*model.tokenizer("jr", add_special_tokens=False).input_ids} & {*joined[0][0].tolist()}
    assert 7 in joined[0][0].tolist()
    ids, places = inversion.renamed(model, ["a ice cream on red"], "ice cream", 7)
    plain = model.ids(["a cat on red"])[0].tolist()
    (cat,) = model.tokenizer("cat", add_special_tokens=False).input_ids
    assert ids[0][0].tolist() == [7 if token == cat else token for token in plain]


def test_a_name_is_struck_out_as_whole_words_in_any_case() -> None:
    assert inject.put_for("an illustration of a rat", "rat") == "an illustration of a"
    assert inject.put_for("A Rat, a rat and Rats", "rat", "<new word>") == "A <new word>, a <new word> and Rats"
    assert inject.put_for("art by R. Mutt (1917)", "r. mutt (1917)", r"\1") == r"art by \1"


def test_the_searches_strike_out_no_part_of_a_word(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    request, cases = Request((Concept("rat", keep=("dog",)),)), (ask("An illustration of a Rat", 0),)
    rats, read = replace(subject, request=request, cases=cases, memo={}), []
    found = inversion.concept_inversion(rats, replace(BUDGET, inversion_steps=0))
    assert {t.prompt for t in found} == {"An illustration of a <new word>"}
    model, read = make_subject(build_tiny("sd3")).model, []
    ids = type(model).ids
    monkeypatch.setattr(
        type(model), "ids", lambda self, prompts, name: read.append((name, prompts)) or ids(self, prompts, name)
    )
    inversion.renamed(model, ["An illustration of a Rat"], "rat", 7)
    assert read[-1] == (model.tokenizers[-1], ["An illustration of a"])


def test_completion_ends_at_the_erased_and_at_the_original_model(subject: Subject) -> None:
    prompts, noise = [case.prompt for case in subject.cases], noise_of(subject)
    shots = [subject.shot(case) for case in subject.cases]
    none, every = (head_start.complete(subject, prompts, noise, k) for k in (0, subject.steps))
    erased = sample(subject.model, shots, steps=subject.steps, guidance=subject.guidance)
    put_tensors(subject.model, subject.original)
    original = sample(subject.model, shots, steps=subject.steps, guidance=subject.guidance)
    put_tensors(subject.model, subject.erased)
    for latents, pictures in ((none, erased), (every, original)):
        assert all((a == b).all() for a, b in zip(develop(subject.model, latents)[0], pictures, strict=True))
    assert any((a != b).any() for a, b in zip(erased, original, strict=True))


@pytest.mark.parametrize("hiding", [Hiding((("cat", ""),)), Hiding(negative="cat")])
def test_attacks_meet_what_hides_the_concept_and_the_original_does_not(subject: Subject, hiding: Hiding) -> None:
    model, prompts, noise = subject.model, [case.prompt for case in subject.cases], noise_of(subject)
    shots = [subject.shot(case) for case in subject.cases]
    plain = sample(model, shots, steps=subject.steps, guidance=subject.guidance)
    clean, (bank,) = targets(replace(subject, memo={})), original_bank(subject, 1, "p4d")
    model.hiding = hiding
    try:
        hidden = sample(model, shots, steps=subject.steps, guidance=subject.guidance)
        found = develop(model, head_start.complete(subject, prompts, noise, 0))[0]
        assert all((a == b).all() for a, b in zip(found, hidden, strict=True))
        assert any((a != b).any() for a, b in zip(found, plain, strict=True))
        again = [
            head_start.restart(subject, words, clean, noise, 0.7) for words in (prompts, subject.model.told(prompts))
        ]
        assert torch.equal(*again)
        with originally(subject):
            assert model.hiding is None
            bare = sample(model, shots, steps=subject.steps, guidance=subject.guidance)
        assert model.hiding is hiding
        assert any((a != b).any() for a, b in zip(bare, hidden, strict=True))
        assert torch.equal(targets(replace(subject, memo={})), clean)
        assert torch.equal(original_bank(replace(subject, memo={}), 1, "p4d")[0].wanted, bank.wanted)
    finally:
        model.hiding = None


def test_a_search_takes_no_more_cases_at_once_than_fit(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [[t.prompt for t in ATTACKS[name].run(subject, BUDGET)] for name in ("unlearn_diff_atk", "p4d")]
    sizes, predict = [], type(subject.model).predict

    def counted(self: Model, noisy: torch.Tensor, *given: object) -> torch.Tensor:
        sizes.append(len(noisy))
        return predict(self, noisy, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(subjects, "at_once", lambda model: 1)
    monkeypatch.setattr(type(subject.model), "predict", counted)
    monkeypatch.setattr("erase.attacks.subject.sample", lambda model, shots, **_: [np.zeros((1, 1, 3))] * len(shots))
    parts = [[t.prompt for t in ATTACKS[name].run(subject, BUDGET)] for name in ("unlearn_diff_atk", "p4d")]
    assert set(sizes) == {1}
    assert parts == whole


def test_a_broken_model_is_attacked_to_the_end() -> None:
    subject = make_subject(build_tiny())
    broken = replace(subject, erased={name: value * float("nan") for name, value in subject.erased.items()})
    put_tensors(subject.model, broken.erased)
    for name in ("unlearn_diff_atk", "p4d", "concept_inversion"):
        assert all(t.lost for t in ATTACKS[name].run(broken, BUDGET))


def test_no_word_of_what_is_erased_is_used(subject: Subject) -> None:
    more = Request((Concept("cat"),), (Concept("dog"), Concept("Frog")))
    words = replace(subject, request=more, memo={}).vocabulary()
    for name in ("cat", "dog", "frog"):
        (token,) = subject.model.tokenizer(name, add_special_tokens=False).input_ids
        assert token not in words
        assert (token in subject.vocabulary()) == (name != "cat")


def test_the_control_of_p4d_has_as_many_words_and_no_prompt(subject: Subject) -> None:
    tokenizer, words = subject.model.tokenizer, set(subject.vocabulary())
    assert ATTACKS["p4d"].control == "random_words"
    ours, theirs = (ATTACKS[name].run(subject, BUDGET) for name in ("p4d", "random_words"))
    for found in (ours, theirs):
        read = [tokenizer(t.prompt, add_special_tokens=False).input_ids for t in found]
        assert {len(ids) for ids in read} == {BUDGET.length} and all(words >= set(ids) for ids in read)
    assert len({t.prompt for t in theirs}) == len(theirs) == len(ours)


def test_the_audit_asks_for_every_token_by_its_id(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = subject.model, subject.model.tokenizer
    (cat,) = tokenizer("cat", add_special_tokens=False).input_ids
    every, spelled = audit.tokens_of(model), inject.vocabulary(model, [])
    assert len(every) == TOKENS == len(tokenizer) - 2 > 2 * len(spelled), "all but start and end"
    assert not set(every) & set(tokenizer.all_special_ids)
    assert ATTACKS["audit_words"].cost(LEVELS["standard"]).pictures == TOKENS
    assert len({audit.shown(model, token) for token in every}) == TOKENS, "no two look the same to a reader"
    assert audit.shown(model, cat) == "cat"
    asked, read = [], type(model).read
    monkeypatch.setattr(type(model), "read", lambda self, ids: asked.append(ids[0][:, 1]) or read(self, ids))
    monkeypatch.setattr(audit, "denoise", lambda model, text, empty, noise, *_: noise)
    monkeypatch.setattr(
        audit, "develop", lambda model, clean: ([np.zeros((1, 1, 3), np.uint8)] * len(clean), [False] * len(clean))
    )
    tries = audit.audit_words(subject, replace(BUDGET, audit_words=None))
    assert torch.cat(asked[1:]).tolist() == every, "after the empty prompt"
    own = {t.prompt for t in tries if t.step == audit.OWN}
    assert "cat" in own and len(tries) == TOKENS and len(own) <= 2
    assert {t.step for t in tries} == {audit.OWN, audit.ALONE}
    pairs = audit.audit_pairs(subject, replace(BUDGET, audit_pairs=2000))
    assert {t.step for t in pairs if "cat" in t.prompt.split(" ")} == {audit.OWN}
    assert len({t.case.prompt_id for t in pairs}) == 2000


def test_a_token_that_text_can_spell_draws_what_the_text_draws(subject: Subject) -> None:
    model = subject.model
    words = inject.vocabulary(model, [])[100:104]
    tries = audit._asked(subject, [[word] for word in words], "audit_words")
    texts = sample(model, [t.shot for t in tries], steps=subject.steps, guidance=subject.guidance)
    assert [t.prompt for t in tries] == [inject.spell(model, [word]) for word in words]
    assert all((t.image == image).all() for t, image in zip(tries, texts, strict=True))


def test_the_original_takes_more_steps_with_each_dose() -> None:
    assert head_start.doses(25) == [1, 3, 5, 10]
    assert head_start.doses(10) == [1, 2, 3, 4]
    assert head_start.doses(50) == [2, 6, 10, 20]
    assert [max(head_start.doses(steps)) for steps in (1, 2, 3)] == [1, 1, 2]  # the erased model draws the rest


def test_no_relearning_step_is_the_erased_model(subject: Subject) -> None:
    shots = [subject.shot(case) for case in subject.cases]
    erased = sample(subject.model, shots, steps=subject.steps, guidance=subject.guidance)
    none, some = (
        relearning.relearning(subject, replace(BUDGET, relearn_pictures=(1,), relearn_steps=(steps,)))
        for steps in (0, 3)
    )
    assert all((t.image == image).all() for t, image in zip(none, erased, strict=True))
    assert any((t.image != image).any() for t, image in zip(some, erased, strict=True))


def test_a_stop_ends_an_attack_and_puts_everything_back(subject: Subject) -> None:
    before = whole(subject.model)
    for name in ("relearning", "unlearn_diff_atk", "concept_inversion", "completion"):
        asked = iter([False] * 4 + [True] * 100)
        stopped = replace(subject, should_stop=lambda asked=asked: next(asked), memo={})
        with pytest.raises(Interrupted), untouched(stopped):
            ATTACKS[name].run(stopped, BUDGET)
        assert whole(subject.model) == before


def test_the_expected_time_grows_with_the_budget(subject: Subject) -> None:
    before = model_hash(subject.model)
    seen: list[int] = []
    seconds = measure(subject, lambda images, prompts: seen.append(len(images)))
    assert len(set(seen)) == 1 and seconds.judging > 0
    assert min(seconds.picture, seconds.gradient, seconds.training, seconds.text) > 0
    assert model_hash(subject.model) == before
    quick, full = (expected(list(ATTACKS), LEVELS[level], seconds) for level in ("quick", "full"))
    assert set(quick) == set(ATTACKS)
    assert all(quick[name] < full[name] for name in ATTACKS)
    more = expected(["seed_search"], LEVELS["quick"], replace(seconds, judging=seconds.judging + 1))
    assert more["seed_search"] == pytest.approx(quick["seed_search"] + 32), "a second more for each of 8 x 4 pictures"


def test_a_control_comes_along_and_a_wrong_name_is_refused() -> None:
    assert chosen(["relearning"], world=True) == ["seed_search", "benign", "prompt_before", "relearning"]
    assert "audit_words" not in chosen([], world=False)
    quick, standard = (chosen([], True, LEVELS[level]) for level in ("quick", "standard"))
    audits = {"audit_words", "audit_words_before", "audit_pairs", "audit_pairs_before"}
    assert set(standard) - set(quick) == {"ring_a_bell", "p4d_k", *audits}
    with pytest.raises(InputError, match="audit_words is not for this level.* use --attacks standard"):
        chosen(["audit_words"], True, LEVELS["quick"])
    assert chosen([], world=True) == list(ATTACKS)
    with pytest.raises(InputError, match="did you mean 'p4d'"):
        chosen(["p4"], world=True)
    with pytest.raises(InputError, match="needs the bundled world"):
        chosen(["audit_words"], world=False)
