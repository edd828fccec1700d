"""The optimizers against torch, against slow references written out here, and against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from erase.errors import EraseError, InputError
from erase.optim import AdamW, DualOptim, DualOptimPlus, Role, SharedOptim, constant, cosine, state_bytes, warmup
from erase.optim.dual_plus import largest_step
from erase.optim.moments import batches
from erase.optim.quantise import pack, unpack

SHAPES = ((5, 3), (7,), (2, 3, 4))


def weights(seed=0, shapes=SHAPES):
    source = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=source)) for shape in shapes]


def gradients(index, shapes=SHAPES, scale=1.0):
    source = torch.Generator().manual_seed(1000 + index)
    return [scale * torch.randn(shape, generator=source) for shape in shapes]


def give(params, grads):
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()


def play(optimizer, params, roles, shapes=SHAPES):
    """Steps of the named roles on fixed gradients; forget's are three times as large."""
    for index, role in enumerate(roles):
        optimizer.zero_grad()
        give(params, gradients(index, shapes, 3.0 if role == "forget" else 1.0))
        optimizer.step(role)
    return [param.detach().clone() for param in params]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# Betas that are no defaults, and an epsilon that a lost one would show.
ADAM: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.05}


def adamw(params):
    return torch.optim.AdamW(params, **ADAM, foreach=True)


def ours(params):
    return AdamW(params, **ADAM)


def sgd(params):
    return torch.optim.SGD(params, lr=0.02, momentum=0.9, weight_decay=0.01)


TURNS: list[Role] = ["forget", "retain", "retain", "forget", "forget", "retain"] * 3


# (a) one objective only is the plain optimizer


@pytest.mark.parametrize("role", ["forget", "retain"])
@pytest.mark.parametrize("factory", [adamw, sgd, ours])
def test_one_objective_is_the_plain_optimizer_bit_for_bit(factory, role):
    params, plain = weights(), weights()
    other = sgd if factory is adamw else adamw
    optimizer = DualOptim(params, **{role: factory, {"forget": "retain", "retain": "forget"}[role]: other})
    moved = play(optimizer, params, [role] * 8)
    reference = (adamw if factory is ours else factory)(plain)
    for index in range(8):
        give(plain, gradients(index, scale=3.0 if role == "forget" else 1.0))
        reference.step()
    assert same(moved, plain)


def test_roles_do_not_see_each_others_state():
    """A mix of SGD and AdamW is the two plain optimizers stepping in turn."""
    params, plain = weights(), weights()
    moved = play(DualOptim(params, forget=adamw, retain=sgd), params, TURNS)
    pair = {"forget": adamw(plain), "retain": sgd(plain)}
    for index, role in enumerate(TURNS):
        give(plain, gradients(index, scale=3.0 if role == "forget" else 1.0))
        pair[role].step()
    assert same(moved, plain)


# (b) decoupling of first and second moments


def slow_adam(roles, rules, first, second):
    """Adam in plain Python floats for one weight; `first` and `second` say whether roles keep their own."""
    theta, moments = 1.0, {}
    for index, role in enumerate(roles):
        lr, (b1, b2), eps, decay = (rules[role][key] for key in ("lr", "betas", "eps", "weight_decay"))
        grad = float(gradients(index, ((1,),), 3.0 if role == "forget" else 1.0)[0])
        m = moments.setdefault(("m", role if first else ""), [0.0, 0])
        v = moments.setdefault(("v", role if second else ""), [0.0, 0])
        m[:] = b1 * m[0] + (1 - b1) * grad, m[1] + 1
        v[:] = b2 * v[0] + (1 - b2) * grad * grad, v[1] + 1
        theta *= 1 - lr * decay
        theta -= lr * (m[0] / (1 - b1 ** m[1])) / (math.sqrt(v[0] / (1 - b2 ** v[1])) + eps)
    return theta


MODES = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize(("first", "second"), MODES)
def test_decoupling_follows_the_written_out_adam(first, second):
    """Whatever is shared, a role keeps its rate, epsilon and decay, and the beta of a moment of its own."""
    betas = tuple(
        own if apart else shared for own, shared, apart in zip((0.7, 0.9), ADAM["betas"], (first, second), strict=True)
    )
    rules: dict[str, Any] = {"forget": ADAM, "retain": {"lr": 0.02, "betas": betas, "eps": 0.01, "weight_decay": 0.1}}
    factories: dict[str, Any] = {
        role: lambda p, rule=rule: torch.optim.AdamW(p, **rule) for role, rule in rules.items()
    }
    param = nn.Parameter(torch.ones(1))
    optimizer = DualOptim([param], **factories, decouple_first=first, decouple_second=second)
    play(optimizer, [param], TURNS, ((1,),))
    assert float(param.detach()) == pytest.approx(slow_adam(TURNS, rules, first, second), abs=2e-6)


def test_four_decouplings_give_four_trajectories():
    ends = []
    for first, second in MODES:
        params = weights()
        optimizer = DualOptim(params, forget=adamw, retain=adamw, decouple_first=first, decouple_second=second)
        ends.append(torch.cat([p.flatten() for p in play(optimizer, params, TURNS)]))
    distances = [float((a - b).abs().max()) for i, a in enumerate(ends) for b in ends[:i]]
    assert min(distances) > 1e-4


def in_groups(params):
    return torch.optim.AdamW([{"params": params[:1]}, {"params": params[1:], "lr": 0.1}], **ADAM, foreach=True)


def adam_as_adamw(params):
    """Torch's Adam with the flag that makes it AdamW; torch 2.6 knows no argument for it."""
    optimizer = torch.optim.Adam(params, **ADAM)
    optimizer.param_groups[0]["decoupled_weight_decay"] = True
    return optimizer


@pytest.mark.parametrize(
    ("factory", "single"), [(adamw, adamw), (ours, adamw), (in_groups, in_groups), (adam_as_adamw, adamw)]
)
def test_nothing_decoupled_is_one_adamw_bit_for_bit(factory, single):
    params, plain = weights(), weights()
    optimizer = DualOptim(params, forget=factory, retain=factory, decouple_first=False, decouple_second=False)
    assert same(play(optimizer, params, TURNS), play(SharedOptim(plain, single), plain, TURNS))


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (sgd, "SGD has no moments to share"),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), "coupled weight decay"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.AdamW(p, maximize=True), "maximize"),
        (lambda p: torch.optim.AdamW(p, betas=(0.9, 0.99)), "betas"),
        (lambda p: AdamW(p, **ADAM, states="8bit"), "store it as"),
    ],
)
def test_partial_decoupling_needs_two_alike_adamw(factory, words):
    with pytest.raises(InputError, match=words):
        DualOptim(weights(), forget=adamw, retain=factory, decouple_first=False)


# (c) the mask is exact


def masks(seed=3):
    source = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=source) > 0.5 for shape in SHAPES]


@pytest.mark.parametrize("kind", ["adamw", "sgd", "shared moments", "plus", "shared"])
def test_masked_weights_keep_their_bits_in_forget_steps(kind):
    """Momentum and weight decay are on, and retain steps fill the states that a shared optimizer would apply."""
    params, mask = weights(), masks()
    shared: Any = {"decouple_first": False, "decouple_second": False}
    optimizer = {
        "adamw": lambda: DualOptim(params, forget=adamw, retain=sgd, mask=mask),
        "sgd": lambda: DualOptim(params, forget=sgd, retain=adamw, mask=mask),
        "shared moments": lambda: DualOptim(params, forget=adamw, retain=adamw, mask=mask, **shared),
        "plus": lambda: DualOptimPlus(params, lr=0.01, weight_decay=0.1, mask=mask),
        "shared": lambda: SharedOptim(params, sgd, mask=mask),
    }[kind]()
    for index, role in enumerate(TURNS):
        before = [param.detach().clone() for param in params]
        give(params, gradients(index))
        optimizer.step(role)
        for param, old, free in zip(params, before, mask, strict=True):
            moved = param.detach() != old
            assert bool(moved[free].all())
            assert bool(moved[~free].any()) == (role == "retain")


def test_mask_on_both_roles_keeps_the_originals():
    params, originals, mask = weights(), weights(), masks()
    names = {f"layer{i}": param for i, param in enumerate(params)}
    by_name = {"layer2": None, "layer1": mask[1].float(), "layer0": mask[0]}
    both = ("forget", "retain")
    play(DualOptim(names, forget=adamw, retain=sgd, mask=by_name, mask_roles=both), params, TURNS)
    for i in (0, 1):
        assert torch.equal(params[i][~mask[i]], originals[i][~mask[i]])
        assert not torch.equal(params[i], originals[i])
    assert bool((params[2] != originals[2]).all())


class Interrupted(torch.optim.SGD):
    """Moves everything, then is stopped."""

    def step(self, closure=None):
        with torch.no_grad():
            torch._foreach_add_([param for group in self.param_groups for param in group["params"]], 1.0)
        raise KeyboardInterrupt


def test_an_interrupted_step_moves_no_masked_weight_and_does_not_count():
    params, mask = weights(), masks()
    optimizer = DualOptim(params, forget=Interrupted, retain=sgd, mask=mask, schedule={"forget": warmup(4)})
    before = [param.detach().clone() for param in params]
    give(params, gradients(0))
    with pytest.raises(KeyboardInterrupt):
        optimizer.step("forget")
    assert [torch.equal(p, b) for p, b in zip(params, before, strict=True)] == [False] * 3
    assert same(*([p[~free] for p, free in zip(ps, mask, strict=True)] for ps in (params, before)))
    assert optimizer.state_dict()["turn"]["steps"] == {"forget": 0, "retain": 0}


def test_joint_step_is_masked_clipped_and_scheduled_like_forget():
    params, originals, mask = weights(), weights(), masks()
    plan = {"clip": {"forget": 0.5}, "schedule": {"forget": constant(0.5)}}
    plan |= {"mask": mask, "mask_roles": ("forget", "retain")}
    optimizer = SharedOptim(params, lambda p: torch.optim.SGD(p, lr=1.0), **plan)
    play(optimizer, params, ["joint"])
    moved = [a.detach() - b.detach() for a, b in zip(params, originals, strict=True)]
    assert all(float(move[~free].abs().max()) == 0 for move, free in zip(moved, mask, strict=True))
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(0.25, rel=1e-5)
    assert optimizer.lr("joint") == 0.5


@pytest.mark.parametrize(
    ("options", "factor", "norm"),
    [
        ({"clip": {"retain": 0.5}}, 1.0, None),
        ({"clip": {"forget": 0.5, "joint": 0.2}}, 1.0, 0.2),
        ({"schedule": {"retain": constant(0.5)}}, 1.0, None),
        ({"schedule": {"forget": constant(0.5), "joint": constant(0.25)}}, 0.25, None),
        ({"mask": masks(), "mask_roles": ("retain",)}, 1.0, None),
    ],
)
def test_joint_takes_its_own_settings_first_and_nothing_of_retain(options, factor, norm):
    params, before = weights(), weights()
    whole = float(torch.cat([g.flatten() for g in gradients(0)]).norm())
    play(SharedOptim(params, lambda p: torch.optim.SGD(p, lr=1.0), **options), params, ["joint"])
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(params, before, strict=True)]).norm()
    assert float(moved) == pytest.approx(factor * (norm or whole), rel=1e-5)


def test_a_mask_of_forget_alone_binds_its_part_of_a_joint_step():
    params, before, mask = weights(), weights(), masks()
    optimizer = SharedOptim(params, lambda p: torch.optim.SGD(p, lr=1.0), mask=mask)
    first, second = gradients(0), gradients(1)
    optimizer.mask_gradients("forget")  # of gradients that are dropped
    optimizer.zero_grad()
    give(params, first)
    optimizer.mask_gradients("retain")
    with pytest.raises(EraseError, match=r"call mask_gradients\('forget'\) after its backward"):
        optimizer.step("joint")
    assert same(params, before)
    optimizer.mask_gradients("forget")
    for param, gradient in zip(params, second, strict=True):
        param.grad += gradient
    optimizer.step("joint")
    wanted = [b.detach() - (f * m + s) for b, f, s, m in zip(before, first, second, mask, strict=True)]
    assert all(torch.allclose(p, w, atol=1e-6) for p, w in zip(params, wanted, strict=True))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([], "no entries"),
        ([torch.zeros(shape) for shape in SHAPES], "0 of 46"),
        ([torch.ones(3, 5), None, None], "shape"),
        ([torch.ones(5, 3)], "1 entries for 3"),
        ({"0": torch.ones(5, 3), "1": None, "2": None, "two": None}, r"unknown \['two'\]"),
        ({"0": torch.ones(5, 3), "1": None}, r"missing \['2'\]"),
        ([torch.full((5, 3), 0.5), None, None], "besides 0 and 1"),
    ],
)
def test_unusable_masks_are_refused(mask, words):
    with pytest.raises(InputError, match=words):
        DualOptim(weights(), forget=adamw, retain=sgd, mask=mask)


# (d) explicit roles, resume


BUILDERS = {
    "mixed": lambda p: DualOptim(
        p, forget=adamw, retain=sgd, schedule={"forget": warmup(9), "retain": cosine(30)}, clip={"forget": 1.0}
    ),
    "first shared": lambda p: DualOptim(p, forget=adamw, retain=ours, decouple_first=False),
    "all shared": lambda p: DualOptim(p, forget=ours, retain=ours, decouple_first=False, decouple_second=False),
    "plus": lambda p: DualOptimPlus(p, lr={"forget": 0.01, "retain": 0.02}, schedule={"retain": warmup(9)}),
    "shared": lambda p: SharedOptim(p, adamw, schedule={"retain": cosine(30, warm=3)}),
    "8-bit": lambda p: DualOptim(p, forget=lambda q: AdamW(q, lr=0.01, states="8bit"), retain=ours),
    "8-bit plus": lambda p: DualOptimPlus(p, lr=0.01, states="8bit"),
}


@pytest.mark.parametrize("kind", list(BUILDERS))
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_resume_goes_on_bit_for_bit(kind, cut, tmp_path):
    shapes = ((70, 70), (7,))
    straight, params = weights(0, shapes), weights(0, shapes)
    end = play(BUILDERS[kind](straight), straight, TURNS, shapes)
    first = BUILDERS[kind](params)
    play(first, params, TURNS[:cut], shapes)
    torch.save({"weights": [p.detach() for p in params], "optimizer": first.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = [nn.Parameter(weight) for weight in saved["weights"]]
    second = BUILDERS[kind](resumed)
    second.load_state_dict(saved["optimizer"])
    for index in range(cut, len(TURNS)):
        give(resumed, gradients(index, shapes, 3.0 if TURNS[index] == "forget" else 1.0))
        second.step(TURNS[index])
    assert same(end, resumed)


ROLES: tuple[Role, ...] = ("forget", "retain")
PLUS: dict[str, Any] = {
    "lr": {"forget": 0.01, "retain": 0.02},
    "weight_decay": {"forget": 0.05, "retain": 0.1},
    "betas": {"forget": (0.8, 0.9), "retain": (0.7, 0.95)},
    "base_betas": (0.6, 0.85),
    "eps": 1e-3,
}


def plus(params, **options):
    """DualOptim+ with nothing left at its default."""
    return DualOptimPlus(params, **PLUS, **options)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            lambda p: DualOptim(p, forget=adamw, retain=sgd),
            lambda p: DualOptim(p, forget=torch.optim.AdamW, retain=lambda q: torch.optim.SGD(q, momentum=0.5)),
        ),
        (lambda p: DualOptim(p, forget=ours, retain=ours), lambda p: DualOptim(p, forget=AdamW, retain=AdamW)),
        (plus, lambda p: DualOptimPlus(p, lr=1.0)),
        (lambda p: plus(p, states="8bit"), lambda p: DualOptimPlus(p, lr=1.0, states="8bit")),
    ],
)
def test_a_state_brings_its_hyperparameters_and_is_copied(right, wrong):
    """Two optimizers go on from one state in memory; each has its own hyperparameters, rates and moments."""
    shapes = ((70, 70), (7,))
    params, others = weights(0, shapes), weights(0, shapes)
    first, second = right(params), wrong(others)
    play(first, params, TURNS[:3], shapes)
    second.load_state_dict(first.state_dict())
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param.data)
    assert same(play(first, params, TURNS, shapes), play(second, others, TURNS, shapes))


def pair(params, **options):
    return DualOptim(params, forget=adamw, retain=adamw, **options)


def rolled():
    return [mask.flatten().roll(1).view_as(mask) for mask in masks()]


TWINS = ((5, 3), (5, 3))


@pytest.mark.parametrize(
    ("saver", "loader", "words"),
    [
        (pair, lambda p: pair(p, decouple_first=False), "decouples"),
        (pair, lambda p: pair(p[:2]), "another parameters"),
        (pair, lambda p: pair({f"layer{i}": param for i, param in enumerate(p)}), "another parameters"),
        (pair, lambda p: pair(weights(0, ((3, 5), (7,), (2, 3, 4)))), "another parameters"),
        (pair, lambda p: pair(p, mask=masks()), "another mask"),
        (lambda p: pair(p, mask=masks()), lambda p: pair(p, mask=rolled()), "another mask"),
        (
            lambda p: pair(weights(0, TWINS), mask=[masks()[0], None]),
            lambda p: pair(weights(0, TWINS), mask=[None, masks()[0]]),
            "another mask",
        ),
        (
            lambda p: pair(p, mask=masks()),
            lambda p: pair(p, mask=masks(), mask_roles=("forget", "retain")),
            "another mask",
        ),
        (pair, lambda p: DualOptim(p, forget=adamw, retain=sgd), "of a AdamW, this is a SGD"),
        (pair, plus, "kind 'dual', not 'dual_plus'"),
        (plus, pair, "kind 'dual_plus', not 'dual'"),
        (pair, lambda p: SharedOptim(p, adamw), "kind 'dual', not 'shared'"),
        (lambda p: plus(p, states="8bit"), plus, "are 8bit, these are fp32"),
    ],
)
def test_a_state_of_another_optimizer_is_refused(saver, loader, words):
    with pytest.raises(InputError, match=words):
        loader(weights()).load_state_dict(saver(weights()).state_dict())


def test_the_same_mask_is_no_other_mask():
    pair(weights(), mask=masks()).load_state_dict(pair(weights(), mask=masks()).state_dict())


def test_a_shared_moment_is_saved_once():
    saved = pair(weights(), decouple_first=False).state_dict()
    assert ["first" in saved[role]["optimizer"] for role in ("forget", "retain")] == [True, False]
    assert ["second" in saved[role]["optimizer"] for role in ("forget", "retain")] == [True, True]


@pytest.mark.parametrize("damage", ["a short tensor", "no counters", "no turn", "a rate that is none"])
@pytest.mark.parametrize("kind", list(BUILDERS))
def test_a_state_that_does_not_fit_changes_nothing(kind, damage):
    shapes = ((70, 70), (7,))

    def trained(turns):
        params = weights(0, shapes)
        optimizer = BUILDERS[kind](params)
        play(optimizer, params, TURNS[:turns], shapes)
        return optimizer, params

    def spoil(value, done):
        """The state with its last tensor of full shape cut down: everything before it fits."""
        if isinstance(value, torch.Tensor):
            if value.shape == shapes[-1] and not done:
                done.append(True)
                return value[:-1]
            return value
        if isinstance(value, dict):
            return {k: spoil(v, done) for k, v in reversed(value.items())}
        return [spoil(v, done) for v in reversed(value)][::-1] if isinstance(value, list) else value

    straight, expected = trained(3)
    play(straight, expected, TURNS[3:], shapes)
    wrong = trained(5)[0].state_dict()
    if damage == "a short tensor":
        done = []
        wrong = spoil(wrong, done)
        assert done
    elif damage == "no counters":
        del wrong["turn"]["steps"]
    elif damage == "no turn":
        del wrong["turn"]
    else:
        place = next(wrong[key] for key in ("options", "retain", "shared") if key in wrong)
        place.update({"rates": None} if "rates" in place else {"retain": {**place["retain"], "lr": -1.0}})
    optimizer, params = trained(3)
    with pytest.raises(InputError):
        optimizer.load_state_dict(wrong)
    play(optimizer, params, TURNS[3:], shapes)
    assert same(expected, params)


def test_roles_are_named_never_counted():
    optimizer = DualOptim(weights(), forget=adamw, retain=sgd)
    with pytest.raises(InputError, match="'joint' is unknown"):
        optimizer.step("joint")
    for options in ({"clip": {"remain": 1.0}}, {"schedule": {"remain": constant()}}, {"mask_roles": ("remain",)}):
        with pytest.raises(InputError, match="'remain' is unknown"):
            DualOptim(weights(), forget=adamw, retain=sgd, **options)
    assert isinstance(optimizer.optimizer("forget"), torch.optim.AdamW)
    assert isinstance(optimizer.optimizer("retain"), torch.optim.SGD)


# (e) DualOptim+


def slow_plus(roles, rules, schedule):
    """DualOptim+ on one weight in plain floats; returns the weight after each step. `rules` are `plus`'s."""
    theta, base, averages, path = 1.0, [0.0, 0.0], {}, []
    shared1, shared2 = rules["base_betas"]
    for index, role in enumerate(roles):
        betas, decay = rules["betas"][role], rules["weight_decay"][role]
        (b1, b2), lr = betas, rules["lr"][role] * schedule(averages.get(role, {"t": 0})["t"])
        grad = float(gradients(index, ((1,),), 3.0 if role == "forget" else 1.0)[0])
        hat = [base[0] / (1 - shared1**index), base[1] / (1 - shared2**index)] if index else [0.0, 0.0]
        own = averages.setdefault(role, {"g": [0.0, 0.0], "b": [0.0, 0.0], "t": 0})
        own["t"] += 1
        for i, (beta, power) in enumerate(((b1, grad), (b2, grad * grad))):
            own["g"][i] = beta * own["g"][i] + (1 - beta) * power
            own["b"][i] = beta * own["b"][i] + (1 - beta) * hat[i]
        n, s = (
            own["g"][i] / (1 - b ** own["t"]) + hat[i] - own["b"][i] / (1 - b ** own["t"]) for i, b in enumerate(betas)
        )
        s = max(s, n * n / largest_step(b1, b2, own["t"]) ** 2)
        theta = theta * (1 - lr * decay) - lr * n / (math.sqrt(s) + rules["eps"])
        base = [shared1 * base[0] + (1 - shared1) * grad, shared2 * base[1] + (1 - shared2) * grad * grad]
        path.append(theta)
    return path


@pytest.mark.parametrize("base_betas", [(0.6, 0.85), None])
def test_plus_satisfies_the_identity(base_betas):
    """Its first moment is the role's own average plus the base's change: the reference is written in that form."""
    param = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = DualOptimPlus([param], **{**PLUS, "base_betas": base_betas}, schedule=dict.fromkeys(ROLES, warmup(5)))
    rules = {**PLUS, "base_betas": base_betas or PLUS["betas"]["forget"]}
    for index, (role, expected) in enumerate(zip(TURNS, slow_plus(TURNS, rules, warmup(5)), strict=True)):
        param.grad = gradients(index, ((1,),), 3.0 if role == "forget" else 1.0)[0].double()
        optimizer.step(role)
        assert float(param.detach()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("level", [(0.0, 0.0), (0.4, 2.5), (-3.0, 0.01)])
def test_plus_with_a_constant_base_is_dual_optim(level):
    shapes = ((6, 5),)
    params = [nn.Parameter(w.detach().double()) for w in weights(1, shapes)]
    plain = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer = DualOptimPlus(params, lr=0.01, weight_decay=0.05, betas=(0.9, 0.95))

    def factory(p):
        return torch.optim.AdamW(p, lr=0.01, weight_decay=0.05, betas=(0.9, 0.95), foreach=True)

    dual = DualOptim(plain, forget=factory, retain=factory)
    for index, role in enumerate(TURNS):
        grads = [g.double() for g in gradients(index, shapes, 3.0 if role == "forget" else 1.0)]
        give(params, grads)
        give(plain, grads)
        for moment, value in zip(optimizer.base, level, strict=True):
            moment.read(params)[0].fill_(value)
            moment.steps[params[0]] = 10_000  # bias correction is 1 then
        optimizer.step(role)
        dual.step(role)
    torch.testing.assert_close(params[0], plain[0], rtol=0, atol=1e-10)


def test_plus_steps_are_bounded_where_the_second_moment_turns_negative():
    """After loud retain steps the base falls below what the forget delta subtracts; the root of |s| may be tiny."""
    betas, count = (0.9, 0.95), 4000
    param = nn.Parameter(torch.zeros(count))
    optimizer = DualOptimPlus([param], lr=1.0, betas=betas, eps=1e-30)
    source = torch.Generator().manual_seed(0)
    steps = {"forget": 0, "retain": 0}
    largest = 0.0
    for index in range(60):
        role: Role = "forget" if index % 2 == 0 else "retain"
        loud = 10.0 if role == "retain" and index < 20 else 0.1
        param.grad = loud * torch.randn(count, generator=source)
        before = param.detach().clone()
        optimizer.step(role)
        steps[role] += 1
        moved = float((param.detach() - before).abs().max())
        assert moved <= largest_step(*betas, steps[role]) * 1.0001
        largest = max(largest, moved)
    assert largest == pytest.approx(largest_step(*betas, 1000), rel=0.1)  # the clamp did act


# (f) 8-bit states


def train(factory, steps=150):
    """Noisy linear regression with badly scaled inputs, 64 x 96 weights; returns weights and the clean loss."""
    source = torch.Generator().manual_seed(0)
    truth, scale = torch.randn(64, 96, generator=source), torch.logspace(0, -2, 96)
    param = nn.Parameter(torch.zeros(64, 96))
    optimizer = factory([param])
    for index in range(steps):
        inputs = torch.randn(32, 96, generator=source) * scale
        error = (param - truth) @ inputs.T + 0.1 * torch.randn(64, 32, generator=source)
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step("forget" if index % 2 == 0 else "retain")
    return param.detach(), float(((param.detach() - truth) * scale).square().sum(1).mean()), optimizer


def eight_bit_pairs():
    def dual(states):
        def factory(p):
            return AdamW(p, lr=0.02, states=states)

        return lambda params: DualOptim(params, forget=factory, retain=factory)

    return {
        "dual": dual,
        "plus": lambda states: lambda p: DualOptimPlus(p, lr=0.02, states=states),
    }


@pytest.mark.parametrize(("kind", "distance", "loss"), [("dual", 0.02, 0.02), ("plus", 0.08, 0.05)])
def test_8_bit_states_track_fp32(kind, distance, loss):
    """DualOptim+ adds a base and a delta that nearly cancel, each with its own rounding: its tolerance is wider."""
    build = eight_bit_pairs()[kind]
    exact, exact_loss, _ = train(build("fp32"))
    packed, packed_loss, optimizer = train(build("8bit"))
    scale = torch.logspace(0, -2, 96)  # a weight counts as much as its input is large
    assert float(((packed - exact) * scale).norm() / (exact * scale).norm()) < distance
    assert packed_loss == pytest.approx(exact_loss, rel=loss)
    assert state_bytes(optimizer) < 64 * 96 * 6 * 1.02


def test_8_bit_second_moments_follow_a_slow_decay():
    """Rounding to the nearest code would freeze them: one step changes them by less than half a code.

    One loud weight in each block holds the scale; without it the scale alone would carry the decay.
    """
    param = nn.Parameter(torch.zeros(64, 64))
    loud = (torch.arange(64 * 64) % 256 == 0).view(64, 64)
    optimizer = AdamW([param], lr=0.0, betas=(0.9, 0.999), states="8bit")
    first = torch.where(loud, 4.0, gradients(0, ((64, 64),))[0])
    for step in range(301):
        param.grad = first if step == 0 else torch.where(loud, 4.0, 0.0)
        optimizer.step()
    decayed = optimizer.second.read([param])[0][~loud]
    roots = decayed.sqrt().mean() / (0.001 * first[~loud].square()).sqrt().mean()
    assert float(roots) == pytest.approx(0.999**150, rel=0.02)
    assert float(decayed.min()) > 0  # a second moment of 0 would divide a step by epsilon


def test_8_bit_second_moments_reach_zero_only_from_zero():
    """A root far below its block's largest would be stored as 0, and the step divide by epsilon."""
    values = torch.full((8, 512), 1e-14)
    values[0, 0], values[1] = 1.0, 0.0
    for step in range(50):
        read = unpack(pack(values, signed=False, squares=True, step=step), values, signed=False, squares=True)
        assert torch.equal(read > 0, values > 0)


@pytest.mark.parametrize(("signed", "squares"), [(True, False), (False, True), (True, True)])
def test_8_bit_is_unbiased_over_steps_and_keeps_small_values(signed, squares):
    values = torch.logspace(-8 if squares else -4, 0, 5000)
    values = values * torch.tensor([1.0, -1.0]).repeat(2500) if signed else values
    reads = [
        unpack(pack(values, signed=signed, squares=squares, step=t), values, signed=signed, squares=squares)
        for t in range(200)
    ]
    roots = torch.stack([torch.where(r < 0, -1, 1) * r.abs().sqrt() if squares else r for r in reads]).mean(0)
    truth = torch.sign(values) * values.abs().sqrt() if squares else values
    assert float(((roots - truth).abs() / truth.abs()).max()) < 0.03
    assert signed or float(torch.stack(reads).min()) > 0


# (g) the variance formula of noise steps


def test_decoupled_momentum_has_the_derived_lower_variance():
    """Heavy-ball SGD on pure noise, one forget (sigma 3) and one retain (sigma 1) step a round, from zero."""
    rounds, momentum, rate, copies = 10, 0.9, 0.1, 200_000
    generator = torch.Generator().manual_seed(0)
    ends = {}
    pairs: list[tuple[Role, float]] = [("forget", 3.0), ("retain", 1.0)]
    for kind in ("dual", "shared"):
        param = nn.Parameter(torch.zeros(copies))

        def factory(p):
            return torch.optim.SGD(p, lr=rate, momentum=momentum)

        optimizer = (
            DualOptim([param], forget=factory, retain=factory) if kind == "dual" else SharedOptim([param], factory)
        )
        for _ in range(rounds):
            for role, sigma in pairs:
                param.grad = sigma * torch.randn(copies, generator=generator)
                optimizer.step(role)
        ends[kind] = float(param.detach().var())
    scale = (rate / (1 - momentum)) ** 2
    ks = range(1, rounds + 1)
    dual = scale * sum((1 - momentum**k) ** 2 * 10.0 for k in ks)
    shared = scale * sum((1 - momentum ** (2 * k)) ** 2 * 9.0 + (1 - momentum ** (2 * k - 1)) ** 2 for k in ks)
    assert ends["dual"] == pytest.approx(dual, rel=0.02)
    assert ends["shared"] == pytest.approx(shared, rel=0.02)
    assert dual / shared == pytest.approx(0.4645, abs=1e-4)


# (h) state bytes


def plain_adamw(p):
    return torch.optim.AdamW(p)


def adamw8(p):
    return AdamW(p, states="8bit")


LAYOUTS = {
    "sgd": (lambda p: SharedOptim(p, sgd), 4.0),
    "adam": (lambda p: SharedOptim(p, plain_adamw), 8.0),
    "adam + sgd": (lambda p: DualOptim(p, forget=plain_adamw, retain=sgd), 12.0),
    "adam + adam": (lambda p: DualOptim(p, forget=plain_adamw, retain=plain_adamw), 16.0),
    "first shared": (lambda p: DualOptim(p, forget=plain_adamw, retain=plain_adamw, decouple_first=False), 12.0),
    "plus": (lambda p: DualOptimPlus(p, lr=0.1), 24.0),
    "8-bit": (lambda p: DualOptim(p, forget=adamw8, retain=adamw8), 4.0625),
    "8-bit plus": (lambda p: DualOptimPlus(p, lr=0.1, states="8bit"), 6.09375),
}
COLUMNS = ["sgd", "adam", "adam + sgd", "adam + adam", "plus", "8-bit", "8-bit plus"]
TABLE = {35.7e6: [0.13, 0.27, 0.40, 0.53, 0.80, 0.14, 0.20], 860e6: [3.2, 6.4, 9.6, 12.8, 19.2, 3.3, 4.9]}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_state_bytes_match_the_table(layout):
    build, per_weight = LAYOUTS[layout]
    shapes = ((512, 512),)
    params = weights(0, shapes)
    optimizer = build(params)
    play(optimizer, params, ["forget", "retain"], shapes)
    measured = state_bytes(optimizer) / params[0].numel()
    assert measured == pytest.approx(per_weight, abs=1e-4)  # torch's step counters are 4 bytes each
    if layout in COLUMNS:
        for size, row in TABLE.items():
            digits = 2 if size < 1e8 else 1
            assert round(measured * size / 2**30, digits) == row[COLUMNS.index(layout)]


def test_small_tensors_stay_fp32():
    params = weights()
    optimizer = LAYOUTS["8-bit"][0](params)
    play(optimizer, params, ["forget", "retain"])
    assert state_bytes(optimizer) == 16 * sum(p.numel() for p in params)


# Steps: finite gradients, clipping, schedules


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["mixed", "plus", "shared", "8-bit"])
def test_a_gradient_that_is_not_finite_changes_nothing(kind, bad):
    params = weights()
    optimizer = BUILDERS[kind](params)
    play(optimizer, params, TURNS[:4])
    before = [param.detach().clone() for param in params]
    states = [tensor.clone() for tensor in optimizer.state_tensors()]
    rate = optimizer.lr("forget")
    give(params, gradients(0))
    params[1].grad = torch.full((7,), bad)
    with pytest.raises(EraseError, match="forget gradient of '1' is not finite"):
        optimizer.step("forget")
    assert same(before, params)
    assert same(states, optimizer.state_tensors())
    assert optimizer.lr("forget") == rate


def test_a_bad_gradient_below_the_mask_is_seen():
    params, mask = weights(), masks()
    optimizer = DualOptim(params, forget=adamw, retain=sgd, mask=mask)
    give(params, gradients(0))
    params[0].grad = torch.where(mask[0], 1.0, float("nan"))
    with pytest.raises(EraseError, match="not finite"):
        optimizer.step("forget")


def test_a_huge_but_finite_gradient_is_no_error():
    params = weights()
    give(params, [torch.full(shape, 1e25) for shape in SHAPES])
    norm = DualOptim(params, forget=adamw, retain=sgd, clip={"forget": 1.0}).step("forget")
    assert norm == pytest.approx(1e25 * math.sqrt(46), rel=1e-5)


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_a_parameter_without_a_gradient_stays(kind):
    params, before = weights(), weights()
    optimizer = BUILDERS[kind](params)
    give(params, gradients(0))
    params[1].grad = None
    optimizer.step("forget")
    assert [torch.equal(p, b) for p, b in zip(params, before, strict=True)] == [False, True, False]


@pytest.mark.parametrize("kind", ["all shared", "plus"])
def test_batches_do_not_change_the_update(kind, monkeypatch):
    shapes = ((10,),) * 5
    params, others = weights(0, shapes), weights(0, shapes)
    whole = play(BUILDERS[kind](params), params, TURNS, shapes)
    monkeypatch.setattr("erase.optim.adamw.BATCH", 20)
    monkeypatch.setattr("erase.optim.dual_plus.BATCH", 20)
    assert [len(batch) for batch in batches(others, 20)] == [2, 2, 1]
    assert same(whole, play(BUILDERS[kind](others), others, TURNS, shapes))


def test_a_step_without_gradients_is_an_error():
    optimizer = DualOptim(weights(), forget=adamw, retain=sgd)
    optimizer.zero_grad()
    with pytest.raises(EraseError, match="without any gradient"):
        optimizer.step("retain")


@pytest.mark.parametrize(("role", "limit"), [("forget", 0.5), ("forget", 50.0), ("retain", 0.5)])
def test_clipping_lowers_the_norm_of_its_role_alone(role, limit):
    def plain(p):
        return torch.optim.SGD(p, lr=1.0)

    params, before = weights(), weights()
    optimizer = DualOptim(params, forget=plain, retain=plain, clip={"forget": limit, "retain": None})
    give(params, gradients(0))
    expected = float(torch.cat([g.flatten() for g in gradients(0)]).norm())
    assert optimizer.step(role) == pytest.approx(expected, rel=1e-6)
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(params, before, strict=True)]).norm()
    assert float(moved) == pytest.approx(min(limit, expected) if role == "forget" else expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["dual", "plus"])
def test_schedules_follow_the_roles_own_steps(kind):
    params, schedule = weights(), {"forget": warmup(4)}
    if kind == "dual":
        optimizer = DualOptim(params, forget=adamw, retain=sgd, schedule=schedule)
    else:
        optimizer = DualOptimPlus(params, lr={"forget": 0.01, "retain": 0.02}, schedule=schedule)
    rates = []
    for role in ("retain", "retain", "forget", "forget", "retain", "forget", "forget", "forget"):
        give(params, gradients(0))
        optimizer.step(role)
        rates.append(optimizer.lr(role))
    assert rates == pytest.approx([0.02, 0.02, 0.0025, 0.005, 0.02, 0.0075, 0.01, 0.01])


def test_the_schedule_scales_the_actual_step():
    params, before = weights(), weights()

    def plain(p):
        return torch.optim.SGD(p, lr=1.0)

    optimizer = DualOptim(params, forget=plain, retain=plain, schedule={"forget": lambda step: 0.25 * (step + 1)})
    play(optimizer, params, ["forget", "retain", "forget"])
    grads = (gradients(index, scale=scale) for index, scale in enumerate((3.0, 1.0, 3.0)))
    for param, old, one, two, three in zip(params, before, *grads, strict=True):
        torch.testing.assert_close(param.detach(), old.detach() - 0.25 * one - two - 0.5 * three)


def test_a_rate_in_a_tensor_is_scheduled_in_place():
    """Compiled and capturable optimizers read the rate from the tensor they were made with."""
    params, plain = weights(), weights()
    rate, schedule = torch.tensor(0.01), {"forget": warmup(9)}
    tensor = DualOptim(
        params, forget=lambda p: torch.optim.AdamW(p, lr=rate, foreach=False), retain=sgd, schedule=schedule
    )
    number = DualOptim(
        plain, forget=lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False), retain=sgd, schedule=schedule
    )
    for one, other in zip(play(tensor, params, TURNS), play(number, plain, TURNS), strict=True):
        torch.testing.assert_close(one, other)
    assert tensor.optimizer("forget").param_groups[0]["lr"] is rate


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_a_schedule_without_a_usable_factor_changes_nothing(factor):
    params, before = weights(), weights()
    give(params, gradients(0))
    with pytest.raises(EraseError, match="schedule of forget"):
        DualOptim(params, forget=adamw, retain=sgd, schedule={"forget": constant(factor)}).step("forget")
    assert same(params, before)


def test_schedule_values():
    assert [warmup(4)(step) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert warmup(0)(0) == 1.0
    curve = cosine(12, warm=2, floor=0.2)
    assert [curve(step) for step in (0, 1, 2, 7, 12, 50)] == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2, 0.2])
    assert constant(0.3)(7) == 0.3


def one_for_both():
    params = weights()
    optimizer = adamw(params)
    return DualOptim(params, forget=lambda p: optimizer, retain=lambda p: optimizer)


def half():
    return [nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]


@pytest.mark.parametrize(
    "build",
    [
        one_for_both,
        lambda: DualOptim([], forget=adamw, retain=sgd),
        lambda: DualOptim([nn.Parameter(torch.ones(2), requires_grad=False)], forget=adamw, retain=sgd),
        lambda: DualOptim(weights()[:1] * 2, forget=adamw, retain=sgd),
        lambda: DualOptim(weights(), forget=lambda p: adamw(p[:1]), retain=sgd),
        lambda: DualOptim(weights(), forget=adamw, retain=sgd, clip={"forget": 0.0}),
        lambda: DualOptimPlus(weights(), lr={"forget": 1.0}),
        lambda: DualOptimPlus(weights(), lr=0.1, betas=(0.99, 0.95)),
        lambda: DualOptimPlus(weights(), lr=0.1, base_betas=(0.9, 1.0)),
        lambda: DualOptimPlus(weights(), lr={"forget": 0.1, "retain": -0.1}),
        lambda: DualOptimPlus(half(), lr=0.1),
        lambda: AdamW(half()),
        lambda: AdamW(weights(), lr=-1.0),
        lambda: AdamW(weights(), eps=-1e-8),
        lambda: AdamW(weights(), weight_decay=float("nan")),
        lambda: AdamW(weights(), betas=(0.9, 1.0)),
        lambda: AdamW(weights(), betas=(0.9,)),  # pyright: ignore
        lambda: AdamW(weights()).step(lambda: 0.0),
        lambda: AdamW(weights(), states="4bit"),  # pyright: ignore
        lambda: cosine(5, warm=5),
        lambda: cosine(5, floor=1.5),
        lambda: warmup(-1),
    ],
)
def test_unusable_settings_are_refused(build):
    with pytest.raises(InputError):
        build()


def test_largest_step_is_reached_by_the_worst_gradients():
    """Gradients proportional to (beta1 / beta2) ** age make Cauchy-Schwarz an equality."""
    grads = [(0.9 / 0.95) ** -index for index in range(12)]
    m = v = 0.0
    for grad in grads:
        m, v = 0.9 * m + 0.1 * grad, 0.95 * v + 0.05 * grad * grad
    reached = m / (1 - 0.9**12) / math.sqrt(v / (1 - 0.95**12))
    assert reached == pytest.approx(largest_step(0.9, 0.95, 12), rel=1e-9)
