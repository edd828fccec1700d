"""Configurations and checkpoints that were mutated: a model, or one line that says what is wrong, and no folder.

Run: pytest tests/integration/test_fuzz.py --fuzz (10,000 configurations, 1,000 checkpoints; others each time)
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

import erase.prepare
from erase import workflow
from erase.check import check_config
from erase.cli import main
from erase.config import Config, load_config, to_yaml
from erase.errors import EraseError, InputError
from erase.export.ldm import to_ldm
from erase.models import load_model
from erase.resources import bundled_config
from erase.sampling import Shot, sample
from tests.integration.conftest import build_tiny

DEMO = yaml.safe_load(bundled_config("demo.yaml").read_text())
READY = [DEMO, *(yaml.safe_load(f.read_text()) for f in sorted(bundled_config("demo.yaml").parent.glob("*.yaml")))]
WORDS = (
    "auto", "world", "cat", "frog", "flat", "style", "esd", "salun", "uce", "speed", "dual", "joint", "xattn-kv",
    "xattn", "full", "cpu", "cuda:99", "fp16", "fp16-mixed", "", " ", "\0", "a\nb", "a\u2028b", "\x85", "../..",
    "/dev/null", "~nobody/x", "org/name", "org/name@main", "x" * 300, "(", "(?i)to_k", "attn2", "1e-4", "yes",
    "2020-01-01", "é", "🦊", "\ud800",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 7, 1000, 2**31, 2**63, 10**30, 0.5, 1e-4, -0.0, 1e308, math.inf, -math.inf, math.nan)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.integers(), st.floats(), st.text()
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.sampled_from(sorted({*Config.model_fields, "name", "lr"})), SCALARS), inner, max_size=5
        ),
    ),
    max_leaves=20,
)
PLACES = st.floats(0, 1, exclude_max=True)
EDITS = st.lists(st.tuples(PLACES, st.sampled_from(("put", "drop", "rename", "wrap")), TREES), max_size=4)
# Of the kind that belongs there often enough to pass the first checks.
NUDGES = st.lists(
    st.tuples(PLACES, st.just("put"), st.one_of(st.sampled_from(WORDS[:20]), st.sampled_from(NUMBERS))), max_size=2
)
SNIPPETS = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.sampled_from(
        (b"\t", b"{", b"[", b": ", b"- ", b"&a ", b"*a", b"!!python/object:os.x ", b"\0", b"%", b"\n", b"? ")
    ),
)
BYTES = st.lists(st.tuples(PLACES, st.sampled_from(("flip", "insert", "cut")), SNIPPETS), max_size=4)


def paths(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree, as the container and the key in it."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [(tree, key) for key in keys] + [place for key in keys for place in paths(tree[key])]


def edited(tree: Any, edits: list[tuple[float, str, Any]]) -> Any:
    """A copy of a tree in which some values are others, gone, elsewhere or inside of something."""
    tree = copy.deepcopy(tree)
    for at, what, value in edits:
        places = paths(tree)
        if not places:
            return value
        here, key = places[int(at * len(places))]
        if what == "put":
            here[key] = value
        elif what == "wrap":
            here[key] = [here[key]]
        else:
            held = here.pop(key)
            if what == "rename" and isinstance(here, dict):
                here[value if isinstance(value, str) else str(value)[:40]] = held
    return tree


def damaged(held: bytes, changes: list[tuple[float, str, bytes]], length: int | None = None) -> bytes:
    """Bytes, some of them others, more or gone; within the first `length`, if given."""
    bad = bytearray(held)
    for at, what, snippet in changes:
        place = int(at * min(len(bad), length or len(bad)))
        if what == "cut":
            del bad[place:]
        else:
            bad[place : place + (len(snippet) if what == "flip" else 0)] = snippet
    return bytes(bad)


def as_yaml(tree: Any) -> bytes:
    return yaml.dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


CONFIGS = st.one_of(
    TREES.map(as_yaml),
    st.tuples(st.sampled_from(READY), EDITS).map(lambda pair: as_yaml(edited(*pair))),
    st.tuples(st.sampled_from(READY), NUDGES).map(lambda pair: as_yaml(edited(*pair))),
    st.tuples(st.sampled_from(READY), BYTES).map(lambda pair: damaged(as_yaml(pair[0]), pair[1])),
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


def fuzz(request: pytest.FixtureRequest, few: int, many: int, strategy: Any, holds: Callable[[Any], None]) -> None:
    """Try examples: few and always the same ones, or with --fuzz many and others each time."""
    asked = request.config.getoption("--fuzz")

    @settings(
        max_examples=many if asked else few,
        derandomize=not asked,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def examine(example: Any) -> None:
        holds(example)

    examine()


def one_line(error: InputError, *names: str) -> None:
    """An error is one line that names something, or, for a configuration, a line for each problem."""
    first, *others = str(error).splitlines()
    assert any(name in first for name in names) if names else first
    if others:
        assert first.endswith(f": {len(others)} problems") and all(line.startswith("  ") for line in others)


def test_mutated_configurations(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = build_tiny()
    monkeypatch.setattr(erase.prepare, "load_model", lambda *_: tiny)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "run.yaml"
    reached = {"refused": 0, "loaded": 0, "prepared": 0}

    def holds(text: bytes) -> None:
        file.write_bytes(text)
        config = None
        try:
            config = load_config(file)
            check_config(config)
            job = erase.prepare.prepare(config, torch.device("cpu"))
        except InputError as error:
            if config is None:
                one_line(error, str(file))
                assert main(["run", str(file)]) == 2
                assert capsys.readouterr().err == f"erase: error: {error}\n"
            else:
                one_line(error)
                with pytest.raises(InputError):
                    workflow.erase(config.model_copy(update={"device": "cpu"}))
            reached["loaded" if config else "refused"] += 1
        else:
            assert load_config_of(to_yaml(job.config), tmp_path) == job.config
            reached["prepared"] += 1
        assert {path.name for path in tmp_path.rglob("*")} <= {"run.yaml", "again.yaml", "here"}

    fuzz(request, 200, 10_000, CONFIGS, holds)
    print(reached)
    assert reached["refused"] and reached["prepared"]


def load_config_of(text: str, folder: Path) -> Config:
    (folder / "again.yaml").write_text(text, encoding="utf-8")
    return load_config(folder / "again.yaml")


TENSOR_EDITS = st.lists(
    st.tuples(
        PLACES,
        st.sampled_from(("drop", "rename", "reshape", "retype", "nan", "stretch", "expand", "empty", "add")),
        st.one_of(st.sampled_from(WORDS), st.text(max_size=20)),
        st.sampled_from([torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool]),
    ),
    max_size=3,
)


def retensored(
    tensors: dict[str, torch.Tensor], edits: list[tuple[float, str, str, torch.dtype]], views: bool = False
) -> dict[str, Any]:
    """Tensors, some of them gone, others, of another name, shape or kind; with `views` also larger than their data."""
    found = dict(tensors)
    for at, what, name, dtype in edits:
        if not found or (what == "expand" and not views):
            continue
        key = sorted(found)[int(at * len(found))]
        value = found.pop(key)
        if what == "rename":
            found[name.replace("\ud800", "?")] = value
        elif what == "add":
            found |= {key: value, f"{key}.{name}".replace("\ud800", "?"): torch.zeros(2)}
        elif what != "drop":
            found[key] = CHANGES[what](value, dtype)
    return found


CHANGES: dict[str, Callable[[torch.Tensor, torch.dtype], torch.Tensor]] = {
    "reshape": lambda value, _: value.reshape(-1)[: max(1, value.numel() // 2)].clone(),
    "retype": lambda value, dtype: value.to(dtype),
    "nan": lambda value, _: torch.full_like(value, torch.nan) if value.is_floating_point() else value,
    "stretch": lambda value, _: value[:1].repeat(9, *[1] * (value.ndim - 1)) if value.ndim else value,
    "expand": lambda value, _: value.reshape(-1)[:1].reshape([1] * value.ndim).expand([10**4] * value.ndim),
    "empty": lambda value, _: torch.zeros(0, *[10**6] * max(0, value.ndim - 1), dtype=value.dtype),
}  # fmt: skip


def draws(source: Path) -> bool:
    """Whether a file or folder is a model, which draws, or one line with its name; nothing else happens."""
    try:
        model = load_model(str(source))
    except InputError as error:
        one_line(error, str(source))
        assert len(str(error).splitlines()) == 1
        return False
    if max(model.latent_shape) > 16:  # a size is free, and a large one slow
        return True
    try:
        sample(model, [Shot("a cat", "cat", 0)], steps=1)
    except EraseError as error:  # weights that are finite may still draw none
        assert "NaN or infinity" in str(error)
    return True


@pytest.fixture(scope="module")
def tensors() -> dict[str, dict[str, torch.Tensor]]:
    """The files of tiny models, small enough to be written a thousand times."""
    return {family: to_ldm(build_tiny(family, usual=True)) for family in ("sd1", "sd2", "sdxl")}


def header_edited(held: bytes, edits: list[tuple[float, str, Any]]) -> bytes:
    """A safetensors file whose header says something else."""
    length = int.from_bytes(held[:8], "little")
    text = json.dumps(edited(json.loads(held[8 : 8 + length]), edits)).encode()
    return len(text).to_bytes(8, "little") + text + held[8 + length :]


FILES = st.tuples(
    st.sampled_from(("sd1", "sd2", "sdxl")),
    st.one_of(
        st.tuples(st.just("bytes"), BYTES),
        st.tuples(st.just("header"), BYTES),
        st.tuples(st.just("json"), EDITS),
        st.tuples(st.just("tensors"), TENSOR_EDITS),
    ),
)


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_mutated_files(
    ending: str, request: pytest.FixtureRequest, tmp_path: Path, tensors: dict[str, dict[str, torch.Tensor]]
) -> None:
    path = tmp_path / f"x{ending}"

    def written(given: dict[str, Any]) -> bytes:
        if ending == ".safetensors":
            return save(given)
        torch.save({"state_dict": given, "global_step": 1}, path)
        return path.read_bytes()

    drawn: list[bool] = []
    whole = {family: written(given) for family, given in tensors.items()}

    def holds(example: tuple[str, tuple[str, Any]]) -> None:
        family, (how, changes) = example
        held = whole[family]
        if how == "tensors":
            held = written(retensored(tensors[family], changes, views=ending == ".ckpt"))
        elif how == "json" and ending == ".safetensors":
            held = header_edited(held, changes)
        elif how == "json":
            torch.save(edited({"state_dict": dict(list(tensors[family].items())[:3]), "epoch": 1}, changes), path)
            held = path.read_bytes()
        else:
            held = damaged(held, changes, 20_000 if how == "header" else None)
        path.write_bytes(held)
        drawn.append(draws(path))
        assert list(tmp_path.iterdir()) == [path]

    fuzz(request, 20, 330, FILES, holds)
    both(drawn)


def both(drawn: list[bool]) -> None:
    """Both ends were met, so neither was tried in vain."""
    print(f"{sum(drawn)} of {len(drawn)} are models still")
    assert 0 < sum(drawn) < len(drawn)


FOLDERS = st.tuples(
    PLACES,
    st.one_of(
        st.tuples(st.just("bytes"), BYTES),
        st.tuples(st.just("json"), EDITS),
        st.tuples(st.just("json"), EDITS),
        st.tuples(st.just("tensors"), TENSOR_EDITS),
        st.tuples(st.just("gone"), st.none()),
    ),
)


def test_mutated_folders(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for family in ("sd1", "sdxl"):
        build_tiny(family).pipeline().save_pretrained(tmp_path / family)
    drawn: list[bool] = []

    def holds(example: tuple[float, tuple[str, Any]]) -> None:
        at, (how, changes) = example
        family, at = ("sd1", "sdxl")[int(at * 2)], at * 2 % 1
        folder = tmp_path / "x"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / family, folder)
        endings = {"json": ".json", "tensors": ".safetensors"}.get(how, "")
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name.endswith(endings)]
        file = files[int(at * len(files))]
        if how == "gone":
            file.unlink()
        elif how == "json":
            file.write_text(json.dumps(edited(json.loads(file.read_text()), changes)))
        elif how == "tensors":
            save_file(retensored(load_file(file), changes), file)
        else:
            file.write_bytes(damaged(file.read_bytes(), changes))
        drawn.append(draws(folder))

    fuzz(request, 40, 340, FOLDERS, holds)
    both(drawn)
