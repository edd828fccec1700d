"""Time and memory of training, of its parts against what the machine can do, of the pool, of closed forms.

    python benchmark/performance.py                       # Stable Diffusion 1's sizes on a GPU, else small ones
    python benchmark/performance.py --size sd1 --device cpu --only rounds --rounds 2
    python benchmark/performance.py --json docs/results/performance.json --markdown /tmp/tables.md

Weights are random: no time depends on them. On a CPU every row runs in a process of its own, whose peak memory is its.
Prints tables; passes or fails nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

BYTES = (
    28  # that AdamW moves for a weight in float32: reads weight, gradient and two states, writes all but the gradient
)
LABELS = {"fp32": "fp32", "bf16-mixed": "bf16"}


@dataclass(frozen=True)
class Row:
    """What is trained, and how."""

    parameters: str = "xattn"
    optimizer: str = "dual"
    precision: str = "fp32"
    rank: int | None = None
    states: str = "fp32"
    checkpointing: bool = False
    compile: bool = False

    def __str__(self) -> str:
        more = [f"LoRA {self.rank}"] if self.rank else []
        more += [f"{self.states} states"] if self.states != "fp32" else []
        more += ["checkpointing"] if self.checkpointing else []
        more += ["compiled"] if self.compile else []
        return ", ".join([self.parameters, self.optimizer, LABELS[self.precision], *more])


def rows(device: str) -> list[Row]:
    """Every pair that is to be compared differs in one thing."""
    found = [
        Row(parameters, optimizer, precision)
        for parameters in ("xattn", "full")
        for precision in ("fp32", "bf16-mixed")
        for optimizer in ("dual", "shared")
    ]
    found += [Row(parameters, "dual", "bf16-mixed", states="8bit") for parameters in ("xattn", "full")]
    found += [Row("xattn", "dual", "bf16-mixed", rank=4), Row("full", "dual", "bf16-mixed", checkpointing=True)]
    return found + [Row("xattn", "dual", "bf16-mixed", compile=True)]


# Sizes. "small" has Stable Diffusion 1's blocks at a fifth of its widths and half of its picture's side.
SIZES: dict[str, dict[str, Any]] = {
    "sd1": {"widths": (320, 640, 1280, 1280), "text": 768, "layers": 12, "side": 64, "vae": (128, 256, 512, 512)},
    "small": {"widths": (64, 128, 256, 256), "text": 256, "layers": 4, "side": 32, "vae": (32, 64, 64, 64)},
}


def random_model(size: str, device: torch.device) -> Any:
    """A Stable Diffusion 1 with random weights, CLIP's own words, and the text encoder, UNet and VAE of that size."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from erase.models import Model
    from erase.models.file_parts import clip_tokenizer

    found = SIZES[size]
    tokenizer = clip_tokenizer("<|endoftext|>")
    torch.manual_seed(0)
    with device:
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=found["text"],
                intermediate_size=4 * found["text"],
                num_hidden_layers=found["layers"],
                num_attention_heads=found["text"] // 64,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=found["side"],
            block_out_channels=found["widths"],
            cross_attention_dim=found["text"],
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            block_out_channels=found["vae"],
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    for part in (text, unet, vae):
        part.eval().requires_grad_(False)
    noise = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return Model("random", tokenizer, text, unet, vae, noise)


def session_of(model: Any, row: Row, options: argparse.Namespace) -> Any:
    """The session that `erase run` would train, with a few trajectories: no time depends on their number."""
    from erase.concept import Concept, Request
    from erase.config import load_config
    from erase.events import ignore, never
    from erase.prepare import Job, open_session

    settings: dict[str, Any] = {
        "model": "random/random",
        "concept": "castle",
        "method": "esd",
        "method.parameters": row.parameters,
        "train.optimizer": row.optimizer,
        "train.precision": row.precision,
        "train.states": row.states,
        "train.checkpointing": row.checkpointing,
        "train.batch": options.batch,
        "train.pool.forget": 2,
        "train.pool.retain": 2,
        "train.pool.steps": 2,
        "train.pool.batch": 2,
        "device": options.device,
    }
    if row.rank:
        settings |= {"method.rank": row.rank}
    request = Request((Concept("castle", keep=("tower", "church")),))
    return open_session(Job(load_config(None, settings), model, request, []), ignore, never)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def timed(device: torch.device, into: list[float]) -> Iterator[None]:
    synchronise(device)
    start = time.perf_counter()
    yield
    synchronise(device)
    into.append(time.perf_counter() - start)


def measure_row(row: Row, options: argparse.Namespace, model: Any = None) -> dict[str, Any]:
    """Seconds of a round, of its optimizer steps and of the rest; what the UNet computed; peak memory."""
    from erase.training.loop import take_turn

    device = torch.device(options.device)
    model = model or random_model(options.size, device)
    session = session_of(model, row, options)
    if row.compile:
        session.model.unet.compile()
    counter = FlopCounterMode(display=False)
    if not row.compile:
        with counter:
            session.accelerator.backward(session.loss("forget", 0))
        session.optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    whole: dict[str, list[float]] = {"forget": [], "retain": []}
    steps: list[float] = []
    inner = session.optimizer.step

    def step(role: Any) -> float:
        with timed(device, steps):
            return inner(role)

    session.optimizer.step = step
    for round in range(options.rounds + 1):
        for role in ("forget", "retain"):
            with timed(device, whole[role]):
                take_turn(session, role, round, 1)
    session.optimizer.step = inner
    turns = {role: statistics.median(found[1:]) for role, found in whole.items()}  # the first makes the states
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_bytes()
    found = {
        **asdict(row),
        "name": str(row),
        "weights": sum(p.numel() for p in session.trained.parameters.values()),
        "seconds": sum(turns.values()),
        "optimizer seconds": 2 * statistics.median(steps[2:]),
        "flops": 2 * counter.get_total_flops(),  # of two turns
        "images": 2 * options.batch,
        "peak": peak,
    }
    session.outcome()
    session.model.unet._compiled_call_impl = None  # nn.Module.compile has no other way back
    return found


def peak_bytes() -> int:
    """Most memory that this process ever held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if platform.system() == "Darwin" else 1024)


def in_own_process(work: Callable[..., Any], *given: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def machine(device: torch.device) -> dict[str, Any]:
    """What the device can do, measured: bytes a second of a copy, operations a second of matrix products."""
    count = 2**28 if device.type == "cuda" else 2**26
    source, target = torch.zeros(count, device=device), torch.zeros(count, device=device)
    seconds: list[float] = []
    for _ in range(8):
        with timed(device, seconds):
            target.copy_(source)
    side = 8192 if device.type == "cuda" else 2048
    found: dict[str, Any] = {"bytes": 8 * count / min(seconds), "torch": torch.__version__}
    for name, dtype in (("fp32", torch.float32), ("bf16-mixed", torch.bfloat16)):
        matrix, seconds = torch.randn(side, side, device=device).to(dtype), []
        for _ in range(5):
            with timed(device, seconds):
                matrix @ matrix
        found[name] = 2 * side**3 / min(seconds)
    found["device"] = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    return found


def measure_pool(options: argparse.Namespace, model: Any = None) -> dict[str, Any]:
    """ESD on xattn: what an update costs from the pool, and what one costs that samples 25 guided steps first."""
    from erase.config import load_config
    from erase.events import ignore, never
    from erase.sampling import Shot, denoise, first_noise
    from erase.training import PoolPlan
    from erase.training.loop import take_turn
    from erase.training.pool import fill
    from erase.training.prompts import Pair

    device = torch.device(options.device)
    model = model or random_model(options.size, device)
    precision = "bf16-mixed" if device.type == "cuda" else "fp32"
    session = session_of(model, Row(precision=precision), options)
    updates: list[float] = []
    for round in range(options.rounds + 1):
        with timed(device, updates):
            take_turn(session, "forget", round, 1)
    fresh: list[float] = []
    for number in range(options.rounds + 1):
        with timed(device, fresh), session.accelerator.autocast(), torch.no_grad():
            start = first_noise(model, [Shot("a castle", f"fresh/{number}", 0)])
            denoise(model, model.encode(["a castle"]), model.encode([""]), start, 25, 3.0)
        fresh[-1] += updates[min(number, len(updates) - 1)]
    defaults, pools = load_config(None, {"model": "random/random", "concept": "castle"}).turns.pool, []
    at_once = min(8, defaults.forget)
    with session.accelerator.autocast(), session.trained.teacher():
        for _ in range(2):
            with timed(device, pools):
                fill(
                    model,
                    [Pair("a castle", "")] * at_once,
                    PoolPlan(steps=defaults.steps, batch=at_once),
                    0,
                    shown="both",
                    trails=True,
                    what="pool",
                    on_event=ignore,
                    should_stop=never,
                )
    count, turn = options.updates, statistics.median(updates[1:])
    fills = -(-count // defaults.refresh) * (defaults.forget / at_once) * pools[-1]
    session.outcome()
    return {
        "precision": precision,
        "updates": count,
        "update": turn,
        "fresh update": statistics.median(fresh[1:]),
        "pools": fills,
        "pooled": fills + count * turn,
        "fresh": count * statistics.median(fresh[1:]),
    }


def measure_editors(options: argparse.Namespace, model: Any = None) -> list[dict[str, Any]]:
    """Closed forms on one concept and on a hundred, text encoding included."""
    from erase.concept import Concept, Request
    from erase.events import Progress
    from erase.methods import EDITORS
    from erase.methods.editing import EditOptions
    from erase.models import put_tensors
    from erase.training import EditPlan, edit
    from erase.training.prompts import COMMON
    from erase.world.vocabulary import OBJECT_NAMES

    device = torch.device(options.device)
    model = model or random_model(options.size, device)
    names = list(
        dict.fromkeys([*OBJECT_NAMES, *COMMON, "oak", "palm", "lake", "river", "road", "tent", "harp", "lion"])
    )
    names = [*names, *(f"{name} house" for name in names)][:100]
    found = []
    for name in EDITORS:
        for count in (1, 100):
            request = Request(tuple(Concept(n, anchor="thing", keep=("sky", "sand", "wall")) for n in names[:count]))
            reading: list[float] = []

            def listen(event: Any, reading: list[float] = reading) -> None:
                if isinstance(event, Progress) and event.what == "reading prompts" and event.done == event.total:
                    reading.append(time.perf_counter())

            seconds: list[float] = []
            start = time.perf_counter()
            with timed(device, seconds):
                outcome = edit(model, request, EditPlan(name, "xattn-kv", EditOptions(), 0), listen)
            put_tensors(model, outcome.before)
            found.append(
                {
                    "editor": name,
                    "concepts": count,
                    "seconds": seconds[0],
                    "reading": reading[-1] - start if reading else 0.0,
                }
            )
    return found


ROUNDS = ("what is trained, how", "M weights", "s a round", "pictures/s", "peak GiB", "optimizer ms", "times its bound")
ROUNDS += ("the rest, ms", "of the FLOP/s")


def tables(found: dict[str, Any]) -> str:
    """Markdown of everything that was measured."""
    can = found["machine"]
    lines = [
        f"{found['size']} sizes, batch {found['batch']}, {can['device']}, torch {can['torch']}.",
        f"A copy moves {can['bytes'] / 1e9:.1f} GB/s; matrix products run at {can['fp32'] / 1e12:.2f} (fp32) and "
        f"{can['bf16-mixed'] / 1e12:.2f} (bf16) TFLOP/s.",
        "",
    ]
    if found.get("rounds"):
        lines += [_row(ROUNDS), _row(["---"] * len(ROUNDS)), *(_row(_cells(row, can)) for row in found["rounds"]), ""]
    if found.get("pool"):
        pool = found["pool"]
        lines += [
            f"ESD on xattn, {pool['updates']} forget updates in {LABELS[pool['precision']]}: {pool['pooled']:.1f} s "
            f"from pools ({pool['pools']:.1f} s to fill them, {1e3 * pool['update']:.3g} ms an update), "
            f"{pool['fresh']:.1f} s with 25 guided steps before each ({1e3 * pool['fresh update']:.3g} ms): "
            f"{pool['fresh'] / pool['pooled']:.1f} times as long.",
            "",
        ]
    if found.get("editors"):
        heads = ("closed form", "concepts", "s in all", "s reading prompts")
        lines += [_row(heads), _row(["---"] * len(heads))]
        for one in found["editors"]:
            lines.append(_row([one["editor"], one["concepts"], f"{one['seconds']:.2f}", f"{one['reading']:.2f}"]))
        lines.append("")
    return "\n".join(lines)


def _row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _cells(row: dict[str, Any], can: dict[str, Any]) -> tuple[str, ...]:
    """A round's row: what it took, and how far that is from what the machine can do."""
    bound = 2 * BYTES * row["weights"] / can["bytes"]
    rest = row["seconds"] - row["optimizer seconds"]
    share = f"{100 * row['flops'] / rest / can[row['precision']]:.0f} %" if row["flops"] else "."
    return (
        row["name"],
        f"{row['weights'] / 1e6:.1f}",
        f"{row['seconds']:.3g}",
        f"{row['images'] / row['seconds']:.2f}",
        f"{row['peak'] / 2**30:.2f}",
        f"{1e3 * row['optimizer seconds']:.3g} ({100 * row['optimizer seconds'] / row['seconds']:.0f} %)",
        f"{row['optimizer seconds'] / bound:.2f}",
        f"{1e3 * rest:.3g}",
        share,
    )


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=device)
    parser.add_argument("--size", choices=SIZES, default="sd1" if device == "cuda" else "small")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each row")
    parser.add_argument("--updates", type=int, default=500, help="updates that the pool's comparison is worked out for")
    parser.add_argument(
        "--only", nargs="+", choices=["rounds", "pool", "editors"], default=["rounds", "pool", "editors"]
    )
    parser.add_argument("--rows", nargs="+", help="only rows whose name has one of these in it")
    parser.add_argument("--json", type=Path, help="keep what was measured; sections that are not run stay as they were")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    place = torch.device(options.device)
    on_gpu = place.type == "cuda"
    model = random_model(options.size, place) if on_gpu else None

    def run(work: Callable[..., Any], *given: Any) -> Any:
        return work(*given, options, model) if on_gpu else in_own_process(work, *given, options)

    found: dict[str, Any] = {}
    if options.json and options.json.is_file():
        found = json.loads(options.json.read_text(encoding="utf-8"))
    found |= {"size": options.size, "batch": options.batch, "machine": machine(place)}
    if "rounds" in options.only:
        chosen = [r for r in rows(options.device) if not options.rows or any(part in str(r) for part in options.rows)]
        found["rounds"] = []
        for row in chosen:
            found["rounds"].append(run(measure_row, row))
            print(tables({**found, "rounds": found["rounds"][-1:], "pool": None, "editors": None}), flush=True)
    if "pool" in options.only:
        found["pool"] = run(measure_pool)
    if "editors" in options.only:
        found["editors"] = run(measure_editors)
    text = tables(found)
    for path, content in ((options.json, json.dumps(found, indent=1)), (options.markdown, text)):
        if path:
            path.write_text(content + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
