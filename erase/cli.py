"""The command `erase`: parse, hand over to the workflow, print, exit.

argparse rather than jsonargparse: `load_config` reports every problem of a file and its overrides at once and suggests
the key that was meant, where jsonargparse stops at the first one; and the help needs a tenth of a second less.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from erase.arguments import SHORT, build_parser
from erase.distributed import ALONE, PeerLost, hushed, joined, last_words, launched, warn_of_launcher
from erase.errors import EraseError, InputError, Interrupted
from erase.eval_command import attack, attacks_given, evaluate
from erase.interrupts import forget, remember
from erase.runtime import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input, 1 failed, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    remember()
    try:
        with hushed():
            code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader, `head` say, has had enough. Without this the interpreter complains again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", Interrupted.exit_code, debug, stopped=True)
    except EraseError as error:
        kinds = isinstance(error, Interrupted), isinstance(error, PeerLost)
        return _fail(str(error), error.exit_code, debug, *kinds)
    except Exception as error:  # the last line of defence: a line and an exit code instead of a traceback
        if _out_of_memory(error):
            return _fail("out of GPU memory: close what else uses the GPU, or add --device cpu", 1, debug)
        text = " ".join(str(error).split())
        return _fail(f"unexpected {type(error).__name__}: {text} (--debug shows where)", 1, debug)
    finally:
        forget()


def _out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for that


def _fail(text: str, code: int, debug: bool, stopped: bool = False, lost: bool = False) -> int:
    if debug:
        traceback.print_exc()
    said = last_words(text, stopped, lost)
    if said is not None:
        print(f"erase: error: {said}", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    parser, commands = build_parser(HANDLERS)
    named = next((a for a in arguments if not a.startswith("-")), None)
    if named is not None and named not in commands:
        raise InputError(f"unknown command {named!r}{_suggest(named, commands)}; see `erase --help`")
    options, unknown = parser.parse_known_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return InputError.exit_code
    if unknown:
        known = [o for action in commands[options.command]._actions for o in action.option_strings]
        name = unknown[0].split("=")[0]
        if "=" in unknown[0] and not name.startswith("-"):
            raise InputError(f"unknown argument {unknown[0]!r}; each KEY=VALUE needs its own --set")
        hint = _suggest(name, known) or f"; see `erase {options.command} --help`"
        raise InputError(f"unknown argument {unknown[0]!r}{hint}")
    if options.command not in TOGETHER and launched() != ALONE:
        raise InputError(f"erase {options.command} is one process; start it without accelerate launch or torchrun")
    if getattr(options, "offline", False):
        os.environ["HF_HUB_OFFLINE"] = "1"  # before any library of the hub is imported; all of them heed it
    return options.do(options)


def _suggest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What flags and --set say, by dotted path; --set wins over a flag."""
    from erase.config import parse_value

    found: dict[str, Any] = {path: getattr(options, flag) for flag, (path, _) in SHORT.items()}
    found = {path: value for path, value in found.items() if value is not None}
    if len(found.get("concept", [])) == 1:
        found["concept"] = found["concept"][0]
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise InputError(f"--set needs KEY=VALUE such as train.forget.lr=1e-4, got {text!r}")
        found[key.strip()] = parse_value(value)
    return found


def _run(options: argparse.Namespace) -> int:
    from erase.check import less_memory
    from erase.config import load_config

    given = overrides(options)
    attacks_given(options)
    if options.resume is None:
        config = load_config(options.config, given)
    elif options.config is not None or given:
        raise InputError("--resume goes on with the run's own settings; leave out the file and the other flags")
    from erase import workflow
    from erase.judging import check_attacks
    from erase.terminal import Listener, score_table, stopping_on_signals

    if options.attacks:
        planned = config if options.resume is None else load_config(options.resume / "config.yaml")
        check_attacks(planned, options.attacks, options.attack)
    start = partial(workflow.erase, config) if options.resume is None else partial(workflow.resume, options.resume)
    if options.cache is not None:
        start = partial(start, cache=options.cache)
    with joined() as group, Listener(quiet=options.quiet) as listener, stopping_on_signals(group.patience) as stop:
        warn_of_launcher(listener)
        try:
            folder = start(on_event=listener, should_stop=stop, group=group)
        except (KeyboardInterrupt, Interrupted) as error:
            raise _interrupted(error, listener.folder or options.resume) from None
        except Exception as error:
            if not _out_of_memory(error):
                raise
            stored = config if options.resume is None else load_config(options.resume / "config.yaml")
            raise EraseError(f"out of GPU memory: {less_memory(stored)}") from error
        stopped = group.any(not listener.complete)  # the main process alone is told
    if stopped:
        raise _interrupted(Interrupted("stopped"), folder)
    if listener.scores:
        print(score_table(listener.scores))
    if options.attacks:
        attack(folder, options, options.cache)
    report = folder / "report.html"
    print(f"report: {report}" if report.is_file() else f"run: {folder}")
    return 0


def _interrupted(error: BaseException, folder: Path | None) -> Interrupted:
    """The message of a run that was stopped: it says how to go on."""
    text = str(error) or "interrupted"
    if folder is None or "--resume" in text:
        return Interrupted(text)
    return Interrupted(f"{text}; continue with: {command('run', '--resume', folder)}")


def _check(options: argparse.Namespace) -> int:
    from erase.check import check_config
    from erase.config import load_config, to_yaml

    config = load_config(options.config, overrides(options))
    for text in check_config(config):
        print(f"warning: {text}", file=sys.stderr)
    print(to_yaml(config), end="")
    return 0


def _export(options: argparse.Namespace) -> int:
    from erase import workflow
    from erase.terminal import Listener

    with Listener() as listener:
        asked = options.format, options.output, options.dtype, options.rank
        path = workflow.export(options.run, *asked, on_event=listener)
    print(path)
    return 0


def _generate(options: argparse.Namespace) -> int:
    from erase import workflow
    from erase.terminal import Listener, stopping_on_signals

    with joined() as group, Listener(quiet=options.quiet) as listener, stopping_on_signals(group.patience) as stop:
        warn_of_launcher(listener)
        paths = workflow.generate(
            options.source,
            prompts=options.prompt,
            seeds=options.seed or [0],
            output=options.output,
            steps=options.steps,
            guidance=options.guidance,
            device=options.device,
            variant=options.variant,
            on_event=listener,
            should_stop=stop,
            group=group,
        )
    print("\n".join(str(path) for path in paths))
    return 0


def _list(options: argparse.Namespace) -> int:
    from erase.catalogue import listing
    from erase.terminal import columns

    rows = listing(options.what)
    if rows:
        print(columns(rows))
    return 0


def _small_world(options: argparse.Namespace) -> int:
    from erase.runtime import output_folder, pick_device
    from erase.terminal import stopping_on_signals
    from erase.world.small import Recipe, train_small

    other = next((name for name in ("stage", "status") if getattr(options, name)), None)
    if other:
        raise InputError(f"--{other} is for the whole world's stages; --small has one, so leave --{other} out")
    output = output_folder(options.output or Path("build/small"))
    recipe = Recipe(without=options.without or "", seed=options.seed or 0)
    deadline = time.time() + 60 * options.minutes if options.minutes else math.inf
    with stopping_on_signals() as stop:
        found = train_small(output, recipe, pick_device(options.device), stop, deadline)
    print(f"{output}: {found.size}")
    return 0


def _batch(options: argparse.Namespace) -> int:
    from erase.batch.command import carry_out, preview, wishes
    from erase.terminal import stopping_on_signals

    wished = wishes(options)
    if options.dry_run:
        print(preview(options.matrix, wished))
        return 0
    with stopping_on_signals() as stop:
        page = carry_out(options.matrix, wished, stop)
    print(f"report: {page}")
    return 0


def _world(options: argparse.Namespace) -> int:
    if options.small:
        return _small_world(options)
    other = next((name for name in ("without", "seed") if getattr(options, name) is not None), None)
    if other:
        raise InputError(f"--{other} is for the small world; add --small")
    from erase.runtime import output_folder, pick_device
    from erase.terminal import columns
    from erase.world import recipe

    if options.status:
        done = _durations(options.build / "durations.json")
        print(columns([(name, f"{done[name]:.0f} s" if name in done else "to do") for name in recipe.STAGES]))
        return 0
    output = options.output or Path("build/world")
    for folder in (output, options.build):
        output_folder(folder)
    try:
        recipe.rebuild(
            output,
            build=options.build,
            stages=options.stage,
            device=pick_device(options.device),
            deadline=time.time() + 60 * options.minutes if options.minutes else math.inf,
        )
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command goes on from the last checkpoint") from None
    print(output)
    return 0


def _ui(options: argparse.Namespace) -> int:
    from erase.ui.app import serve
    from erase.ui.login import read_login

    login = read_login(options.login, os.environ)
    serve(
        models=options.models,
        runs=options.runs,
        port=options.port,
        login=login,
        hub=options.hub,
        browser=options.open,
    )
    return 0


def _durations(path: Path) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to see every stage as to do") from None


TOGETHER = ("run", "eval", "generate")  # commands that several processes can share
HANDLERS = {
    "run": _run,
    "check": _check,
    "eval": evaluate,
    "export": _export,
    "generate": _generate,
    "batch": _batch,
    "list": _list,
    "world": _world,
    "ui": _ui,
}
