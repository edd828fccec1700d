"""Judge a run beside gold: models trained without the concept, each made a run of its own with the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erase import runs, workflow
from erase.config import Config, load_config, run_folders
from erase.errors import InputError
from erase.evaluation.prompt_files import read_prompt_files
from erase.events import OnEvent, ShouldStop, Warned, ignore, never
from erase.judged import attacked_config, judged_config
from erase.judging import check_attacks
from erase.reporting import add_gold
from erase.runtime import command, file_hash, user_path
from erase.scoring import content_hash
from erase.world.vocabulary import vocabulary_of

FOLDER = "gold"


def evaluate(
    folder: Path,
    golds: list[str],
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    cache: Path | None = None,
) -> list[dict[str, Any]]:
    """Judge a run again and compare it with golds; return the run's scores.

    A gold is a model's folder, or a run of method `retrained`. What is made of a model lies in the run's `gold/`, and
    is used again as long as the run's settings of judging stay. Raises `InputError` for a gold that has another concept
    left out than the run erased, or other parts than the run's model, before anything is drawn.
    """
    scores, _ = _compared(folder, golds, on_event, should_stop, cache)
    return scores


def attack(
    folder: Path,
    golds: list[str],
    level: str,
    names: Sequence[str] = (),
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
    cache: Path | None = None,
) -> list[dict[str, Any]]:
    """`evaluate`, then attack the run and each gold alike; return the run's scores of attacks.

    A gold's rows lie in its own folder, `attacks.jsonl`. What was attacked before with the same budget is not done
    again. Raises as `evaluate` and `workflow.attack` do.
    """
    check_attacks(attacked_config(user_path(folder)), level, names, folder)
    _, places = _compared(folder, golds, on_event, should_stop, cache, attacked=True)
    scores = workflow.attack(folder, level, names, on_event, should_stop)
    for name, place in places.items():
        on_event(Warned(text=f"attacking gold {name}"))
        workflow.attack(place, level, names, on_event, should_stop)
    add_gold(user_path(folder), places)
    return scores


def _compared(
    folder: Path,
    golds: list[str],
    on_event: OnEvent,
    should_stop: ShouldStop,
    cache: Path | None,
    *,
    attacked: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """The run's scores, its report rewritten with the gaps, and where each gold's run lies."""
    folder = user_path(folder)
    config, asked = judged_config(folder)
    names = labels(golds)
    settings = {name: _settings(folder, config, name, attacked=attacked) for name in golds}
    places = {names[name]: _placed(folder, name, its, on_event, should_stop) for name, its in settings.items()}
    scores = workflow.evaluate(folder, on_event, should_stop, cache, asked)
    add_gold(folder, places)
    return scores, places


def labels(golds: Sequence[str]) -> dict[str, str]:
    """What the report calls each gold: as many of its path's last names as tell it from the others.

    Raises `InputError` where two are one folder.
    """
    paths = {name: user_path(name).resolve() for name in golds}
    if len(set(paths.values())) < len(golds):
        raise InputError("--gold: one folder is given twice; each gold counts once")
    found = {}
    for name, path in paths.items():
        others = [other.parts for other in paths.values() if other != path]
        most = len(path.parts)
        count = next(n for n in range(1, most + 1) if n == most or all(o[-n:] != path.parts[-n:] for o in others))
        found[name] = "/".join(path.parts[-count:]).lstrip("/") or str(path)
    return found


def _settings(folder: Path, config: Config, name: str, *, attacked: bool = False) -> Config | None:
    """The configuration of the run that a gold's folder is to be made; None for one that is a run already.

    One that is to be `attacked` must have the run's seed, from which attacks begin.
    """
    source = user_path(name)
    if run_folders(name):
        gold, _ = judged_config(source)
        if gold.method.name != "retrained":
            raise InputError(f"--gold {name}: a run of method {gold.method.name}; name a gold, or a run of retrained")
        _check_run(name, gold, config)
        if attacked and gold.seed != config.seed:
            again = command("run", source / runs.CONFIG, "--seed", config.seed)
            raise InputError(
                f"--gold {name}: attacks begin from a run's seed, {gold.seed} there and {config.seed} here; "
                f"make a run of it with this seed: {again}"
            )
        return None
    world = vocabulary_of(name)
    if world is None:
        raise InputError(f"--gold {name}: no model of a world is there; make one: erase world --small --without NAME")
    erased = [section.name for section in config.concepts]
    if len(erased) > 1:
        raise InputError(
            f"--gold {name}: the run erased {', '.join(erased)}, and erase world --without leaves out one concept; "
            "name a run of method retrained whose method.source was trained without all of them"
        )
    if [world.without] != erased:
        left = f"was trained without {world.without}" if world.without else "was trained with everything"
        raise InputError(f"--gold {name}: {left}, and the run erased {', '.join(erased)}; name a gold of that")
    asked = config.evaluate.model_copy(update={"skip": False}).model_dump()
    given: dict[str, Any] = {
        "model": config.model,
        "concept": [section.model_dump() for section in config.concepts],
        "method": {"name": "retrained", "source": str(source.resolve())},
        "evaluate": asked,
        "seed": config.seed,
        "device": config.device,
    }
    weights = {str(file.relative_to(source)): file_hash(file) for file in sorted(source.rglob("*.safetensors"))}
    lists = [file.sha256 for file in read_prompt_files(config.evaluate.files or ())]
    # A world trained anew at the same place is another gold, and a list that was changed asks for other pictures.
    key = content_hash([given, weights, *([lists] if lists else [])])[:8]
    return load_config(None, given | {"output": str(folder / FOLDER / f"{source.resolve().name}-{key}")})


def _check_run(name: str, gold: Config, config: Config) -> None:
    """Raises `InputError` for a gold run that has other concepts, another base, pictures or judges than the run."""
    erased, without = ([section.name for section in one.concepts] for one in (config, gold))
    if erased != without:
        raise InputError(f"--gold {name}: is without {', '.join(without)}, and the run erased {', '.join(erased)}")
    if (gold.model, gold.variant) != (config.model, config.variant):
        raise InputError(f"--gold {name}: a run on {gold.model}, and this one is on {config.model}; name one on that")
    for key in ("prompts", "seeds", "steps", "guidance", "roles", "files", "judges"):
        own, its = getattr(config.evaluate, key) or None, getattr(gold.evaluate, key) or None
        if own != its:
            raise InputError(
                f"--gold {name}: judged with evaluate.{key} {its}, and the run with {own}; evaluate both alike"
            )


def _placed(folder: Path, name: str, config: Config | None, on_event: OnEvent, should_stop: ShouldStop) -> Path:
    """The gold's run, made or finished now where it is not there yet."""
    if config is None:
        return user_path(name)
    place, cache = user_path(str(config.output)), folder / FOLDER / "cache"
    if (place / runs.DONE).is_file():
        return place
    on_event(Warned(text=f"drawing and judging gold {name}"))
    if (place / runs.CONFIG).is_file():
        return workflow.resume(place, on_event, should_stop, cache)
    return workflow.erase(config, on_event, should_stop, cache)
