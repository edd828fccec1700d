"""The command line's grammar: commands, flags, help with examples. It imports nothing heavy and does no work."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from erase import __version__
from erase.argument_types import port, positive, real, whole
from erase.errors import InputError
from erase.runtime import user_path

Handler = Callable[[argparse.Namespace], int]

# Flags of `erase run` and `erase check` that are short for a setting: its path and a line of help.
SHORT: dict[str, tuple[str, str]] = {
    "model": (
        "model",
        "world, a folder in diffusers' layout, a checkpoint file, a hub id (org/name, org/name@revision), or the "
        "folder of a finished run, to go on from it",
    ),
    "variant": ("variant", "which weight files of a folder or hub id are read, say fp16"),
    "concept": ("concept", "what to erase; may be given several times"),
    "kind": ("concept.kind", "auto, object, style, person or nudity"),
    "anchor": (
        "concept.anchor",
        "what it becomes; empty: left out by esd, the first kept concept for others",
    ),
    "keep": ("concept.keep", "neighbours that must stay, separated by commas"),
    "method": (
        "method",
        "esd, spm, advunlearn, ablation, salun, sfron, ga, npo, uce, rece or speed; erase list methods: also baselines",
    ),
    "optimizer": ("train.optimizer", "dual, dual_plus, dual_first, dual_second, dual_rates, shared or joint"),
    "rounds": ("train.rounds", "how long it trains; one round is a forget and a retain step"),
    "judge": (
        "evaluate.judges",
        "who looks at the pictures, NAME[:options]: clip, imagenet or nudenet (docs/judges.md); may be given several "
        "times",
    ),
    "prompts": (
        "evaluate.files",
        "a prompt file, [ROLE=]FILE.csv, in the place of the role's own prompts (forget); may be given several times",
    ),
    "roles": (
        "evaluate.roles",
        "further kinds of prompts, separated by commas, or all: forget_synonym_seen, forget_synonym_rare, "
        "forget_description, and on models other than the world forget_super, forget_lang, compose, in_prompt",
    ),
    "count": ("evaluate.prompts", "how many prompts each role asks; more of them narrow the intervals"),
    "seeds": ("evaluate.seeds", "how many pictures of each prompt; they narrow less than as many more prompts"),
    "synonyms": (
        "concept.synonyms",
        "other names of the concept, separated by commas, for forget_synonym_seen on models other than the world",
    ),
    "memory": ("memory", "8gb, 12gb or 24gb: settings for a GPU of so much memory"),
    "seed": ("seed", "start of every random stream"),
    "device": ("device", "auto, cpu, cuda, cuda:N or mps"),
    "output": ("output", "run folder; by default runs/<date>-<concept>-<method>"),
}

# Those that may be given several times, and those that `erase eval` has too.
REPEATED = ("concept", "judge", "prompts")
JUDGING = ("judge", "prompts", "roles", "synonyms", "count", "seeds")

# Formats and precisions of `erase export` and levels of attacks; their packages would import torch for them.
EXPORTS = ("diffusers", "single-file", "lora", "lora-peft", "delta", "text-encoder")
LEVELS = ("quick", "standard", "full")
DTYPES = ("fp32", "fp16", "bf16")


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that all errors look alike."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def build_parser(
    handlers: Mapping[str, Handler],
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and the parsers of the commands by name; `options.do` is the handler of the command given."""
    parser = _Parser(
        prog="erase",
        description="Erase a concept from a text-to-image model, and show what that did.",
        epilog="examples:\n  erase run                        the demo, on the bundled model\n"
        "  erase run --concept dog          another object\n  erase run --help                 more of them",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"erase {__version__}")
    parser.add_argument("--debug", action="store_true", help="show an error's traceback")
    group = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    commands: dict[str, argparse.ArgumentParser] = {}

    def command(name: str, summary: str, examples: str, more: str = "") -> argparse.ArgumentParser:
        made = group.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.{more}",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.set_defaults(do=handlers[name])
        made.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")
        commands[name] = made
        return made

    _add_run_and_check(command)
    _add_eval_and_export(command)
    _add_generate(command)
    _add_batch(command)
    _add_list_and_world(command)
    _add_ui(command)
    return parser, commands


def _add_run_and_check(command: Callable[..., argparse.ArgumentParser]) -> None:
    run = command(
        "run",
        "erase a concept, judge before and after, write the report",
        "erase run\n"
        'erase run --concept "pixel art" --kind style\n'
        "erase run --concept dog --anchor cat --keep fox,rabbit --seed 1\n"
        "erase run --concept dog --concept cat --method uce\n"
        "erase run --model runs/2026-11-23-cat-esd --concept dog\n"
        "erase run configs/ga.yaml --optimizer shared --set train.forget.lr=5e-5\n"
        "erase run --resume runs/2026-11-23-cat-esd",
    )
    run.add_argument("--resume", metavar="DIR", type=user_path, help="go on with a run that was stopped")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_cache(run)
    _add_attacks(run)
    _add_offline(run)
    check = command(
        "check",
        "validate a configuration and print it in full",
        "erase check configs/demo.yaml\nerase check configs/salun.yaml --set train.rounds=20 > mine.yaml",
        " No model is loaded, so these are not checked: the model's\nfiles, whether the pattern of method.parameters "
        "matches any of its weights, how many tokens\nits prompts may have, the device, and the output folder. "
        "`erase run` checks them before it\nmakes a folder.",
    )
    for made in (run, check):
        made.add_argument("config", nargs="?", type=user_path, help="a YAML file; flags and --set override it")
        for name in SHORT:
            _add_short(made, name)
        made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any setting, by its path")


def _add_eval_and_export(command: Callable[..., argparse.ArgumentParser]) -> None:
    made = command(
        "eval",
        "judge a run again, or one that was not judged, and rewrite its report",
        "erase eval runs/2026-11-23-cat-esd\n"
        "erase eval runs/2026-11-23-cat-esd --roles all\n"
        "erase eval runs/2026-11-23-cat-esd --count 400\n"
        "erase eval runs/2026-11-23-otter-esd --judge clip --roles all --synonyms 'river dog'\n"
        "erase eval runs/2026-11-23-nudity-esd --judge nudenet:threshold=0.6 --prompts i2p.csv\n"
        "erase eval runs/2026-11-23-cat-esd --attacks quick\n"
        "erase eval runs/2026-11-23-cat-esd --gold gold/cat-0 --gold gold/cat-1",
    )
    made.add_argument(
        "--gold",
        metavar="DIR",
        action="append",
        help="a model trained without the concept (erase world --small --without), or a run of method retrained; may "
        "be given several times: the report says how far the run is from them, and they from one another; with "
        "--attacks they are attacked too, and the report says what an attack breaks beyond them",
    )
    made.add_argument("runs", metavar="RUN", nargs="+", type=user_path, help="a run folder, or several")
    for name in JUDGING:
        _add_short(made, name)
    made.add_argument("--rows", action="store_true", help="draw nothing; compute scores again from rows.jsonl")
    _add_cache(made)
    made.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_attacks(made)
    _add_offline(made)
    made = command(
        "export",
        "write the erased model in a format that other tools load",
        "erase export runs/2026-11-23-cat-esd --format diffusers --output cat-erased\n"
        "erase export runs/2026-11-23-cat-esd --format single-file --dtype fp16 --output cat-erased.safetensors\n"
        "erase export runs/2026-11-23-cat-esd --format lora --rank 32 --output cat-lora.safetensors",
    )
    made.add_argument("run", metavar="RUN", type=user_path, help="a run folder")
    made.add_argument(
        "--format",
        choices=EXPORTS,
        default="diffusers",
        help="diffusers: a pipeline folder (the default); single-file: the whole model as A1111 and ComfyUI read it; "
        "lora, lora-peft: the change of the weights as a LoRA, in kohya's or PEFT's form; delta: the trained tensors; "
        "text-encoder: that alone",
    )
    made.add_argument("--output", metavar="PATH", type=user_path, required=True, help="a new folder, or .safetensors")
    made.add_argument(
        "--dtype", choices=DTYPES, help="precision of the weights (fp32, or that of the base's single file)"
    )
    made.add_argument(
        "--rank",
        metavar="N",
        type=positive,
        help="rank of a LoRA; a higher one loses less (16; all of it where a LoRA was trained, or solved for)",
    )
    _add_offline(made)


def _add_generate(command: Callable[..., argparse.ArgumentParser]) -> None:
    made = command(
        "generate",
        "draw pictures with a run's erased model, or with any model",
        'erase generate runs/2026-11-23-cat-esd --prompt "a pixel art cat on a blue background"\n'
        'erase generate world --prompt "a cat" --prompt "a dog" --seed 0 --seed 1 --output pictures',
    )
    made.add_argument("source", metavar="RUN|MODEL", help="a run folder, or what --model of `erase run` takes")
    made.add_argument("--prompt", action="append", required=True, help="may be given several times")
    made.add_argument("--seed", metavar="N", action="append", type=whole, help="may be given several times (0)")
    made.add_argument("--output", metavar="DIR", type=user_path, default=Path("pictures"), help="folder (pictures)")
    made.add_argument("--steps", metavar="N", type=positive, default=25, help="denoising steps (25)")
    made.add_argument("--guidance", metavar="G", type=real, default=3.0, help="how closely prompts are followed (3)")
    made.add_argument("--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    made.add_argument("--variant", metavar="V", help="which weight files of a model are read, say fp16")
    made.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_offline(made)


def _add_batch(command: Callable[..., argparse.ArgumentParser]) -> None:
    made = command(
        "batch",
        "carry out a matrix of runs, and sum them up in one report",
        "erase batch configs/batch.yaml --dry-run\n"
        "erase batch configs/batch.yaml --workers 2\n"
        "erase batch configs/batch.yaml --gpus 0,1,2,3\n"
        "erase batch configs/batch.yaml --engine ray --address auto --gpus-per-job 1",
        " The same command again goes on: what is\ndone is kept, what was stopped is resumed, what failed is tried "
        "again.",
    )
    made.add_argument("matrix", metavar="MATRIX", type=user_path, help="a YAML file: docs/batch.md")
    made.add_argument("--output", metavar="DIR", type=user_path, help="folder of all runs (runs/<name of the file>)")
    made.add_argument("--dry-run", action="store_true", help="list the jobs and the time they may take; do nothing")
    made.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine (local), or a cluster")
    made.add_argument("--workers", metavar="N", type=positive, help="jobs at once (one for each GPU; 1)")
    made.add_argument("--cpus-per-job", metavar="N", type=positive, help="cores of a job (an equal share)")
    made.add_argument("--gpus", metavar="LIST", help="local: GPUs to use, say 0,1; each worker sees one")
    made.add_argument("--gpus-per-job", metavar="G", type=real, default=0.0, help="ray: GPUs of a job, say 1 or 0.5")
    made.add_argument("--address", metavar="A", help="ray: auto, or host:port of the cluster; without one it is here")
    made.add_argument("--artefacts", metavar="URL", help="ray: where nodes that share no folder leave their runs")
    made.add_argument("--retries", metavar="N", type=whole, default=2, help="how often a broken job is tried again (2)")
    made.add_argument("--redo", action="store_true", help="put runs with other settings aside, and do them anew")
    _add_offline(made)


def _add_list_and_world(command: Callable[..., argparse.ArgumentParser]) -> None:
    made = command(
        "list",
        "show what can be named in a configuration",
        "erase list methods\nerase list concepts\nerase list parameters",
    )
    made.add_argument("what", choices=["methods", "models", "concepts", "parameters", "attacks"])
    made = command(
        "world",
        "rebuild the bundled model and its judges from the glyphs, or train a small one",
        "erase world --small --output small\nerase world --small --without cat --seed 1 --output small-without-cat\n"
        "erase world --status\nerase world --output build/world --device cuda\n"
        "erase world --output build/world --stage conv --stage patch",
    )
    made.add_argument("--output", metavar="DIR", type=user_path, help="folder (build/world; build/small)")
    made.add_argument(
        "--build", metavar="DIR", type=user_path, default=Path("build/work"), help="checkpoints (build/work)"
    )
    made.add_argument(
        "--small", action="store_true", help="train a small world of 12 objects and 4 styles; Ctrl-C and again: goes on"
    )
    made.add_argument(
        "--without",
        metavar="NAME[=OTHER]",
        help="small: as if one concept had never been: its pictures dropped (cat), or its word drawn as another "
        "(cat=fox)",
    )
    made.add_argument("--seed", metavar="N", type=whole, help="small: start of every random stream (0)")
    made.add_argument("--stage", metavar="NAME", action="append", help="only this stage; may be given several times")
    made.add_argument("--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    made.add_argument("--minutes", metavar="M", type=positive, help="stop after so long; the same command goes on")
    made.add_argument("--status", action="store_true", help="show which stages are done, and do nothing")


def _add_ui(command: Callable[..., argparse.ArgumentParser]) -> None:
    made = command(
        "ui",
        "open the program in a browser: erase, compare, evaluate, manage runs",
        "erase ui\nerase ui --port 8000 --models ~/models --runs ~/runs --login login.txt",
        " It listens on this machine alone\n(127.0.0.1), and what is named there must lie below --models or --runs. "
        "With --login, or\nERASE_LOGIN=name:password in the environment, it asks for a name and a password.",
    )
    made.add_argument("--port", metavar="N", type=port, default=7860, help="where it listens (7860)")
    made.add_argument("--models", metavar="DIR", type=user_path, default=Path("models"), help="folder (models)")
    made.add_argument("--runs", metavar="DIR", type=user_path, default=Path("runs"), help="folder (runs)")
    made.add_argument("--login", metavar="FILE", type=user_path, help="a file with lines name:password")
    made.add_argument("--hub", action="store_true", help="visitors may name models of the Hugging Face hub")
    made.add_argument("--open", action="store_true", help="open a browser as well")
    _add_offline(made)


def _add_attacks(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--attacks",
        choices=LEVELS,
        help="then try to bring the concept back, with a small, usual or published budget; goes on where it stopped",
    )
    made.add_argument(
        "--attack",
        metavar="NAME",
        action="append",
        default=[],
        help="only this attack (see `erase list attacks`); may be given several times",
    )


def _add_short(made: argparse.ArgumentParser, name: str) -> None:
    """A flag that is short for a setting; errors name the setting, so the help does where the words differ."""
    path, text = SHORT[name]
    told = text if name == path.rpartition(".")[2] else f"{text} ({path})"
    made.add_argument(f"--{name}", metavar=name[0].upper(), action=_action(name), help=told)


def _action(name: str) -> str:
    return "append" if name in REPEATED else "store"


def _add_cache(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--cache",
        metavar="DIR",
        type=user_path,
        help="keep the base model's pictures here, for runs that are judged alike",
    )


def _add_offline(made: argparse.ArgumentParser) -> None:
    made.add_argument("--offline", action="store_true", help="fetch nothing; hub ids are looked up in the local cache")
