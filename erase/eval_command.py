"""`erase eval`: judge runs, compare them, attack them."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from erase.arguments import JUDGING, SHORT
from erase.distributed import ALONE, joined, launched, warn_of_launcher
from erase.errors import InputError, Interrupted
from erase.runtime import command


def attacks_given(options: argparse.Namespace) -> None:
    """Refuse names of attacks without a level, and make the default of `--attack` alone no silent one."""
    if options.attack and not options.attacks:
        raise InputError(f"--attack {options.attack[0]} needs a budget too: add --attacks quick, standard or full")
    if options.attacks and launched() != ALONE:
        raise InputError("attacks are one process; start them afterwards, alone: erase eval RUN --attacks LEVEL")


def attack(folder: Path, options: argparse.Namespace, cache: Path | None) -> None:
    """Attack a run, and the golds that are named, and print what came of it.

    `cache` is for the judging of what was not judged yet.
    """
    from erase import golds, workflow
    from erase.terminal import Listener, score_table, stopping_on_signals

    against = getattr(options, "gold", None)  # erase run has none
    do = partial(golds.attack, golds=against) if against else workflow.attack
    how = {"level": options.attacks, "names": options.attack, "cache": cache}
    with Listener(quiet=options.quiet) as listener, stopping_on_signals() as stop:
        try:
            scores = do(folder, **how, on_event=listener, should_stop=stop)
        except (KeyboardInterrupt, Interrupted) as error:
            named = [word for name in options.attack for word in ("--attack", name)]
            named += _flags(options) if against else []
            again = command("eval", folder, "--attacks", options.attacks, *named)
            raise Interrupted(f"{str(error) or 'interrupted'}; go on with: {again}") from None
    print(score_table(scores))


def evaluate(options: argparse.Namespace) -> int:
    attacks_given(options)
    asked = {SHORT[name][0]: getattr(options, name) for name in JUDGING if getattr(options, name) is not None}
    if options.rows and asked:
        raise InputError("--rows computes scores of the pictures that there are; leave out the other flags")
    if options.rows and launched() != ALONE:
        raise InputError("--rows computes scores in one process; start it alone, without a launcher")
    if options.gold and launched() != ALONE:
        raise InputError("--gold compares in one process; start it alone, without a launcher")
    if options.gold and (options.rows or asked or len(options.runs) > 1):
        raise InputError(
            "--gold compares one run, as it was judged last; leave out the other runs and flags, or judge it so first"
        )
    if len(options.runs) > 1 or options.rows:
        _check_runs(options.runs, options.rows)
    if options.attacks:
        if options.rows or asked:
            first = f"; first: {command('eval', *options.runs, *_flags(options))}" if asked else ""
            raise InputError(f"--attacks attack a run as it was judged, without other flags{first}")
        for folder in options.runs:
            attack(folder, options, _cache(options, folder))
        if len(options.runs) > 1:
            print(f"comparison: {_comparison(options.runs)}")
        return 0
    from erase import golds, workflow
    from erase.terminal import Listener, score_table, standings, stopping_on_signals

    judged: list[tuple[str, list[dict[str, Any]]]] = []
    judge = partial(golds.evaluate, golds=options.gold) if options.gold else workflow.evaluate
    with joined() as group, Listener(quiet=options.quiet) as listener, stopping_on_signals(group.patience) as stop:
        warn_of_launcher(listener)
        for place, folder in enumerate(options.runs):
            try:
                if options.rows:
                    scores = workflow.rescore(folder, on_event=listener)
                else:
                    more: dict[str, Any] = {"cache": _cache(options, folder), "asked": asked}
                    more = {name: value for name, value in more.items() if value}
                    if not options.gold:
                        more["group"] = group
                    scores = judge(folder, on_event=listener, should_stop=stop, **more)
                if group.any(stop.asked):  # a signal may reach some processes before others
                    raise Interrupted("stopped")
            except Interrupted as error:
                again = command("eval", *options.runs[place:], *_flags(options))
                if place and not options.rows:
                    again += f"; then all on one page: {command('eval', *options.runs, '--rows')}"
                raise Interrupted(f"{error}; start again with: {again}") from None
            if len(options.runs) > 1:
                print(f"{folder}")
            if group.main:
                print(score_table(scores))
            judged.append((str(folder), scores))
        if len(judged) > 1 and group.main:
            print(standings(judged))
            print(f"comparison: {_comparison(options.runs)}")
    return 0


def _check_runs(folders: list[Path], rows: bool) -> None:
    """Refuse, before hours of work on the first, a run that the others cannot be beside."""
    from erase import runs

    seen: dict[Path, Path] = {}
    for folder in folders:
        first = seen.setdefault(folder.resolve(), folder)
        if first is not folder:
            also = "" if str(first) == str(folder) else f", also as {folder}"
            raise InputError(f"{first} is named twice{also}; name each run once")
        runs.require_run(folder, finished=True)
        if rows and not (folder / runs.ROWS).is_file():
            raise InputError(f"{folder} has no {runs.ROWS}: it was never judged; leave out --rows")


def _comparison(folders: list[Path]) -> Path:
    """The page of several runs, written beside the first."""
    from erase.report.comparison import PAGE, write_comparison

    return write_comparison(folders, folders[0].absolute().parent / PAGE)


def _flags(options: argparse.Namespace) -> list[str]:
    """What was said of judging, as flags again."""
    given = {name: getattr(options, name) for name in (*JUDGING, "gold", "cache") if getattr(options, name) is not None}
    each = [(name, value if isinstance(value, list) else [value]) for name, value in given.items()]
    words = [word for name, values in each for value in values for word in (f"--{name}", str(value))]
    return words + [f"--{name}" for name in ("rows", "offline") if getattr(options, name)]


def _cache(options: argparse.Namespace, folder: Path) -> Path | None:
    """Where pictures of the base are kept: as told, else beside several runs that are judged together."""
    if options.cache is not None or len(options.runs) < 2:
        return options.cache
    return folder.absolute().parent / ".before"
