"""One battery over every method, under `dual`, on a tiny untrained model.

Adding a method to METHODS adds it here. Run: pytest tests/integration/test_methods.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, get_args

import pytest
import torch

from erase.concept import Concept, Request
from erase.errors import EraseError, InputError
from erase.events import Step, Warned, ignore, never
from erase.methods import METHODS, Options
from erase.models import FAMILIES, Model, select
from erase.optim import DualOptim
from erase.training import Pool, PoolPlan, RolePlan, Session, TrainPlan, optimizers, train
from erase.training import session as training_session
from erase.training.loop import take_turn
from erase.training.scale import GROW_EVERY, MOST_OVERFLOWS, LossScale
from erase.training.session import MethodPlan
from tests.integration.conftest import build_tiny

CAT = Request((Concept("cat", keep=("dog", "fox")),))
KINDS = get_args(optimizers.Kind)
POOL = PoolPlan(forget=4, retain=4, steps=3, batch=4)


def make(model: Model, method: str = "esd", parameters: str = "xattn", **changes: Any) -> Session:
    roles = changes.pop("roles", (RolePlan(lr=1e-3), RolePlan(lr=1e-3)))
    kind = changes.pop("optimizer", "dual")
    pool = changes.pop("pool", POOL)
    plan = MethodPlan(method, parameters, changes.pop("options", Options()), changes.pop("lora", None))
    settings = {
        "precision": "fp32",
        "rounds": 6,
        "batch": 2,
        "seed": 0,
        "on_event": ignore,
        "should_stop": never,
        **changes,
    }
    return Session(model, CAT, plan, kind, roles, pool, **settings)


def run(session: Session, rounds: int, first: int = 0, accumulate: int = 1) -> list[Any]:
    steps: list[Any] = []
    plan = TrainPlan(rounds=rounds, accumulate=accumulate, preview_every=0, checkpoint_every=0)
    train(session, plan, first=first, on_event=steps.append, should_stop=never, save=_nothing, preview=_nothing)
    return steps


def _nothing(round: int) -> None:
    pass


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.unet.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_losses_are_finite_and_only_the_declared_parameters_change(method: str, family: str) -> None:
    model = build_tiny(family)
    before = weights(model)
    session = make(model, method)
    steps = run(session, 2)
    assert all(torch.isfinite(torch.tensor([s.loss, s.grad_norm])).all() for s in steps)
    changed = {k for k, v in weights(model).items() if not torch.equal(v, before[k])}
    assert changed
    assert changed <= set(session.trained.parameters)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["dual", "dual_plus", "shared", "joint"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(method: str, optimizer: str) -> None:
    ends = []
    for seed in (0, 0, 1):
        model = build_tiny()
        run(make(model, method, optimizer=optimizer, seed=seed), 2)
        ends.append(torch.cat([v.flatten() for v in weights(model).values()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("method", METHODS)
def test_the_forget_loss_falls(method: str, tiny_model: Model) -> None:
    session = make(tiny_model, method, roles=(RolePlan(lr=5e-4), RolePlan(lr=1e-6)))

    def now() -> float:
        with torch.no_grad():
            return sum(float(session.loss("forget", 1000 + i)) for i in range(8))

    start = now()
    run(session, 12)
    assert now() < start


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.mask])
def test_a_mask_holds_the_other_weights_in_the_roles_it_binds(method: str, optimizer: str, tiny_model: Model) -> None:
    roles = (RolePlan(lr=1e-2, weight_decay=0.1), RolePlan(lr=1e-2, weight_decay=0.1))
    session = make(tiny_model, method, roles=roles, optimizer=optimizer)
    mask = session.mask
    assert mask is not None
    assert 0 < sum(int(m.sum()) for m in mask.values()) < sum(m.numel() for m in mask.values())
    moved = dict.fromkeys(("forget", "retain", "joint"), 0)  # masked weights that a role's steps moved
    for round in range(3):
        for role in ("joint",) if optimizer == "joint" else ("forget", "retain"):
            before = {k: v.clone() for k, v in session.trained.tensors().items()}
            take_turn(session, role, round, 1)
            for name, value in session.trained.tensors().items():
                moved[role] += int((value != before[name])[~mask[name]].sum())
    assert moved["forget"] == 0
    assert (moved["retain" if optimizer != "joint" else "joint"] == 0) == {"salun": True, "sfron": False}[method]
    assert any(not torch.equal(v, session.trained.originals[k]) for k, v in session.trained.tensors().items())


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.mask])
def test_the_forget_part_of_a_joint_step_is_masked(
    method: str, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make(tiny_model, method, optimizer="joint")
    loss = session.loss
    monkeypatch.setattr(session, "loss", lambda role, *given: loss(role, *given) * (role == "forget"))
    take_turn(session, "joint", 0, 1)
    assert session.mask is not None
    moved = {k: v != session.trained.originals[k] for k, v in session.trained.tensors().items()}
    assert any(where.any() for where in moved.values())
    assert not any((where & ~session.mask[name]).any() for name, where in moved.items())


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.mask])
@pytest.mark.parametrize("pictures", ["concept", "anchor", "both"])
def test_a_mask_is_measured_on_the_concepts_own_pictures(
    method: str, pictures: Any, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[int, str] = {}  # a pool's clean latents -> whose pictures they are
    seen: list[str] = []

    def recorded(*given: Any, shown: str, **rest: Any) -> Any:
        pool = fill(*given, shown=shown, **rest)
        drawn[id(pool.clean)] = f"{shown}, {rest['what']}"
        return pool

    def looked(self: Any, *given: Any) -> Any:
        seen.append(drawn[id(self.clean)])
        return from_pictures(self, *given)

    fill, from_pictures = training_session.fill, Pool.from_pictures
    monkeypatch.setattr(training_session, "fill", recorded)
    monkeypatch.setattr(Pool, "from_pictures", looked)
    session = make(tiny_model, method, options=Options(pictures=pictures))
    own = "concept, sampling forget latents" if pictures == "concept" else "concept, sampling mask latents"
    assert set(seen) == {own, *(["concept, sampling retain latents"] if method == "sfron" else [])}
    seen.clear()
    session.loss("forget", 0)
    assert seen == [f"{pictures}, sampling forget latents"]


def test_the_teacher_leaves_no_trace_even_after_an_error(tiny_model: Model) -> None:
    session = make(tiny_model)
    run(session, 1)
    trained = weights(tiny_model)
    with pytest.raises(RuntimeError), session.trained.teacher():
        assert any(not torch.equal(v, trained[k]) for k, v in weights(tiny_model).items())
        raise RuntimeError
    assert all(torch.equal(v, trained[k]) for k, v in weights(tiny_model).items())


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_the_teacher_predicts_as_the_model_did_before_training(tiny_model: Model, precision: str) -> None:
    session = make(tiny_model, precision=precision)
    batch = session.draw("retain", 2, torch.Generator().manual_seed(0))
    first = session.nets.student(batch.noisy, batch.times, batch.text).detach()
    run(session, 2)
    student = session.nets.student(batch.noisy, batch.times, batch.text)
    assert torch.equal(session.nets.teacher(batch.noisy, batch.times, batch.text), first)
    assert not torch.equal(student, first)


def test_trained_weights_stay_float32_under_bf16(tiny_model: Model) -> None:
    session = make(tiny_model, precision="bf16-mixed")
    run(session, 1)
    assert {p.dtype for p in session.trained.parameters.values()} == {torch.float32}


def test_accumulated_micro_batches_count_for_their_own_role_only(tiny_model: Model) -> None:
    """accelerate's shared counter would let one role step on half of the rounds only."""
    steps = run(make(tiny_model), 3, accumulate=2)
    assert [s.role for s in steps] == ["forget", "retain"] * 3
    assert all(s.grad_norm > 0 for s in steps[1:])  # the first retain gradient follows a forget step


def test_accumulation_equals_the_mean_of_its_micro_batches(tiny_model: Model) -> None:
    session = make(tiny_model)
    session.optimizer.zero_grad()
    for micro in range(2):
        (session.loss("forget", 0, micro) / 2).backward()
    expected = torch.cat([p.grad.flatten() for p in session.trained.parameters.values() if p.grad is not None]).norm()
    steps = run(make(build_tiny()), 1, accumulate=2)
    assert steps[0].grad_norm == pytest.approx(float(expected), rel=1e-5)


def test_a_nan_loss_stops_before_any_weight_changes(tiny_model: Model) -> None:
    session = make(tiny_model)
    session.pools["forget"].trail.noisy.fill_(float("nan"))
    before = weights(tiny_model)
    with pytest.raises(EraseError, match="forget loss is nan in round 0"):
        run(session, 1)
    assert all(torch.equal(v, before[k]) for k, v in weights(tiny_model).items())


def with_scale(session: Session, value: float) -> Session:
    """The session as in fp16: accelerate's scaler multiplies its losses. The CPU's arithmetic stays float32."""
    session.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=value)
    session.scale = LossScale(session.accelerator.scaler)
    return session


def test_a_loss_scale_is_taken_out_once_a_turn() -> None:
    """accelerate's clipping would divide by it once for each of the two optimizers."""
    plain, scaled = make(build_tiny()), with_scale(make(build_tiny()), 1024.0)
    expected, found = run(plain, 3), run(scaled, 3)
    assert [s.grad_norm for s in found] == [s.grad_norm for s in expected]
    assert all(torch.equal(v, weights(plain.model)[k]) for k, v in weights(scaled.model).items())


def test_an_overflow_leaves_its_step_out_and_halves_the_scale(tiny_model: Model) -> None:
    session = with_scale(make(tiny_model), 2.0**127)
    for pool in session.pools.values():
        pool.trail.conditional.mul_(1e4)
        pool.trail.anchored.mul_(1e4)
    before = weights(tiny_model)
    events = run(session, 1)
    assert any(isinstance(e, Warned) and "overflowed" in e.text for e in events)
    assert next(e for e in events if isinstance(e, Step)).grad_norm == float("inf")
    assert session.scale.value < 2.0**127
    assert all(torch.equal(v, before[k]) for k, v in weights(tiny_model).items())


def test_endless_overflow_ends_the_run(tiny_model: Model) -> None:
    session = with_scale(make(tiny_model), 1024.0)
    parameter = next(iter(session.trained.parameters.values()))
    for _ in range(MOST_OVERFLOWS - 1):
        parameter.grad = torch.full_like(parameter, float("inf"))
        assert not session.scale.unscale([parameter])
    parameter.grad = torch.full_like(parameter, float("inf"))
    with pytest.raises(EraseError, match="overflowed 24 turns in a row"):
        session.scale.unscale([parameter])


def test_the_scale_grows_again_and_is_resumed(tiny_model: Model) -> None:
    session = with_scale(make(tiny_model), 1024.0)
    parameter = next(iter(session.trained.parameters.values()))
    for _ in range(GROW_EVERY):
        parameter.grad = torch.ones_like(parameter)
        assert session.scale.unscale([parameter])
    assert session.scale.value == 2048.0
    second = with_scale(make(build_tiny()), 1.0)
    second.load_state_dict(session.state_dict())
    assert (second.scale.value, second.scale.good) == (2048.0, GROW_EVERY)


def test_a_state_of_another_run_changes_nothing(tiny_model: Model) -> None:
    session = make(tiny_model)
    run(session, 1)
    before = weights(tiny_model)
    state = make(build_tiny()).state_dict()
    for wrong in (
        {**state, "optimizer": {}},
        {k: v for k, v in state.items() if k != "scale"},
        {**state, "trained": 3},
    ):
        with pytest.raises(InputError):
            session.load_state_dict(wrong)
        assert all(torch.equal(v, before[k]) for k, v in weights(tiny_model).items())


def test_a_refreshed_pool_comes_from_the_original_weights_and_is_another(tiny_model: Model) -> None:
    session = make(tiny_model, pool=replace(POOL, refresh=2))
    first = session.pools["forget"].trail
    run(session, 2)
    assert session.pools["forget"].trail is first
    run(session, 3, first=2)
    second = session.pools["forget"]
    trail = second.trail
    assert not torch.equal(trail.noisy[:, 0], first.noisy[:, 0])
    with session.trained.teacher():
        again = tiny_model.predict(trail.noisy[:, 0], trail.times[0], second.text)
    assert torch.allclose(again, trail.conditional[:, 0], atol=1e-6)


def test_a_pool_of_both_holds_the_predictions_under_each_prompt(tiny_model: Model) -> None:
    pool = make(tiny_model).pools["forget"]  # esd: even rows follow the concept, odd ones the anchor
    trail = pool.trail
    assert trail is not None
    with torch.no_grad():
        for row in range(4):
            x, t = trail.noisy[row, 1:2], trail.times[1]
            for prompts, kept in ((pool.text, trail.conditional), (pool.anchors, trail.anchored)):
                again = tiny_model.predict(x, t, prompts[row : row + 1])
                assert torch.allclose(again, kept[row, 1:2], atol=1e-6)
            guide = trail.anchored if row % 2 else trail.conditional
            eps = trail.unconditional[row, :1] + POOL.guidance * (guide[row, :1] - trail.unconditional[row, :1])
            tiny_model.scheduler.set_timesteps(POOL.steps)
            step = tiny_model.scheduler.step(eps, trail.times[0], trail.noisy[row, :1]).prev_sample
            assert torch.allclose(step, x, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_keeps_the_way_to_its_pictures_only_where_it_is_drawn_from(method: str, tiny_model: Model) -> None:
    pools, m = make(tiny_model, method).pools, METHODS[method]
    assert pools.keys() == ({"forget"} if m.anchoring else {"forget", "retain"})
    for role in pools:
        source = m.forget_source if role == "forget" else m.retain_source
        assert (pools[role].trail is not None) == (source == "trajectories")
        if source == "pictures":
            with pytest.raises(ValueError, match="pictures alone"):
                pools[role].from_trajectories(2, torch.Generator())


def test_velocity_and_noise_say_the_same(tiny_model: Model) -> None:
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([10, 500, 990])
    noisy, target = tiny_model.add_noise(clean, noise, times)
    assert torch.equal(target, noise)
    tiny_model.scheduler.register_to_config(prediction_type="v_prediction")
    again, velocity = tiny_model.add_noise(clean, noise, times)
    assert torch.equal(again, noisy)
    expected = tiny_model.scheduler.get_velocity(clean, noise, times)
    assert torch.allclose(velocity, expected, atol=1e-6)


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("cut", range(1, 6))
def test_resuming_at_any_of_six_rounds_equals_the_straight_run(optimizer: str, cut: int) -> None:
    pool = replace(POOL, refresh=4)
    straight = build_tiny()
    run(make(straight, optimizer=optimizer, pool=pool), 6)
    first = make(build_tiny(), optimizer=optimizer, pool=pool)
    run(first, cut)
    second = make(build_tiny(), optimizer=optimizer, pool=pool)
    second.load_state_dict(first.state_dict())
    run(second, 6, first=cut)
    expected = weights(straight)
    assert all(torch.equal(v, expected[k]) for k, v in second.model.unet.state_dict().items())


def test_the_kinds_of_dual_share_the_moments_that_their_names_leave_out() -> None:
    for kind, own in optimizers.DECOUPLED.items():
        model = build_tiny()
        dual = make(model, optimizer=kind, roles=(RolePlan(lr=1e-3), RolePlan(lr=3e-4))).optimizer
        assert isinstance(dual, DualOptim)
        assert (dual.lr("forget"), dual.lr("retain")) == (1e-3, 3e-4)
        if kind != "dual":  # whose rules may have no moments at all
            forget, retain = cast(Any, dual.optimizer("forget")), cast(Any, dual.optimizer("retain"))
            assert (forget.first is not retain.first, forget.second is not retain.second) == own


def test_shared_moments_at_one_rate_are_the_shared_optimizer_and_at_two_are_not() -> None:
    ends = {}
    for kind, retain in (("shared", 1e-3), ("dual_rates", 1e-3), ("dual_rates", 5e-4), ("shared", 5e-4)):
        model = build_tiny()
        run(make(model, optimizer=kind, roles=(RolePlan(lr=1e-3), RolePlan(lr=retain))), 3)
        ends[kind, retain] = torch.cat([v.flatten() for v in weights(model).values()])
    assert torch.equal(ends["shared", 1e-3], ends["dual_rates", 1e-3])
    assert torch.equal(ends["shared", 1e-3], ends["shared", 5e-4])
    assert not torch.equal(ends["dual_rates", 5e-4], ends["dual_rates", 1e-3])


def test_a_checkpoint_of_another_sharing_is_refused() -> None:
    saved = make(build_tiny(), optimizer="dual_first").state_dict()
    with pytest.raises(InputError, match="decouples"):
        make(build_tiny(), optimizer="dual_second").load_state_dict(saved)


def test_a_cosine_ends_at_nothing_and_a_constant_does_not(tiny_model: Model) -> None:
    roles = (RolePlan(lr=1e-3, schedule="cosine", warmup=2), RolePlan(lr=2e-3))
    steps = run(make(tiny_model, roles=roles), 6)
    rates = {role: [s.lr for s in steps if s.role == role] for role in ("forget", "retain")}
    assert rates["forget"] == pytest.approx([5e-4, 1e-3, 1e-3, 8.5355e-4, 5e-4, 1.4645e-4], rel=1e-3)
    assert rates["retain"] == [2e-3] * 6
    short = run(make(build_tiny(), roles=(RolePlan(lr=1e-3, schedule="cosine", warmup=20),) * 2, rounds=2), 2)
    assert [s.lr for s in short if s.role == "forget"] == pytest.approx([1e-3, 1e-3])


def test_a_pattern_that_matches_nothing_is_refused(tiny_model: Model) -> None:
    with pytest.raises(InputError, match="matches no parameter"):
        select(tiny_model, r"no\.such\.layer")
    with pytest.raises(InputError, match="no valid regular expression"):
        select(tiny_model, "(")


def test_presets_select_what_their_names_say(tiny_model: Model) -> None:
    names = {preset: set(select(tiny_model, preset)) for preset in ("xattn-kv", "xattn", "noxattn", "full")}
    assert names["xattn-kv"] < names["xattn"] < names["full"]
    assert names["xattn"] | names["noxattn"] == names["full"]
    assert not names["xattn"] & names["noxattn"]
    assert all("attn2.to_k" in n or "attn2.to_v" in n for n in names["xattn-kv"])


def test_one_kernel_for_all_weights_is_for_gpus_and_changes_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert optimizers.fuses(list(select(build_tiny(), "xattn").values())) is None
    plain = make(build_tiny(), "sfron")
    run(plain, 3)
    monkeypatch.setattr(optimizers, "fuses", lambda weights: True)  # torch has the kernel for CPUs too
    fused = make(build_tiny(), "sfron")
    run(fused, 2)
    resumed = make(build_tiny(), "sfron")
    resumed.load_state_dict(fused.state_dict())
    run(resumed, 3, first=2)
    for name, value in plain.trained.tensors().items():
        assert torch.allclose(resumed.trained.tensors()[name], value, atol=1e-5)
        assert not torch.equal(value, plain.trained.originals[name])
