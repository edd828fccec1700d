"""What can be said of a configuration before a model is loaded; what `erase check` says."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from erase.concept import Concept, Request, title
from erase.config import WORLD, Config, first_model, load_config, run_folders, unused_settings
from erase.config.schema import ConceptSection, EvaluateSection
from erase.errors import InputError
from erase.evaluation.file_prompts import file_asks, split_files
from erase.evaluation.judge import AUTO, check_kind, parse_judges
from erase.evaluation.open_prompts import one_kind, open_asks
from erase.evaluation.open_roles import choose_open_roles
from erase.evaluation.prompt_files import read_prompt_files
from erase.evaluation.prompts import resolve, world_asks, world_concept
from erase.evaluation.roles import choose_roles
from erase.runtime import CONFIG, user_path
from erase.world.vocabulary import Vocabulary, vocabulary_of

# The preset to take when one did not suffice.
SMALLER = {None: "24gb", "24gb": "12gb", "12gb": "8gb", "8gb": None}


def check_config(config: Config) -> list[str]:
    """Warnings, one line each. Raises `InputError` for what no run could use."""
    for path in filter(None, (config.model, config.output)):
        user_path(path)
    rules = {config.train.forget.optimizer, config.train.retain.optimizer} if config.train else set()
    if "adamw8bit-bnb" in rules and find_spec("bitsandbytes") is None:
        raise InputError("optimizer adamw8bit-bnb needs bitsandbytes: pip install 'erase[lowmem]'")
    request, warnings = named_request(config), []
    check_variant(config.model, config.variant)
    if config.train and config.train.pool.forget < len(request.concepts):
        raise InputError(
            f"train.pool.forget {config.train.pool.forget} is too few for {len(request.concepts)} concepts; each needs "
            "one trajectory or more"
        )
    warnings += check_judging(config, request)
    world = vocabulary_of(first_model(config.model))
    if world:
        for word in (word for section in config.concepts for word in _words(section)):
            if resolve(word, world)[1] != " ".join(word.casefold().split()):
                warnings.append(f"{word!r} is trained and judged as {resolve(word, world)[1]!r}, its name in the world")
    return warnings + _again(config, request) + unused_settings(config)


def check_judging(config: Config, request: Request) -> list[str]:
    """Warnings about prompts and judges. Raises `InputError` for what no judging could use."""
    asked, world = config.evaluate, vocabulary_of(first_model(config.model))
    if asked.skip:
        return []
    specs = parse_judges(asked.judges or (), ("clip",) if world else ())
    files, split = split_files(read_prompt_files(asked.files or ()), request, world)
    if asked.roles and not world and not specs:
        raise InputError("evaluate.roles need a judge on this model; name one: --judge clip, imagenet or nudenet")
    warnings = []
    if world:
        world_asks(request, asked.prompts, asked.seeds, world=world)
        warnings = choose_roles(asked.roles or (), request, world)[1]
    elif specs:
        check_kind(specs, one_kind(request), request.title)
        if all(concept.keep for concept in request.concepts):
            open_asks(request, asked.prompts, asked.seeds)
        warnings = choose_open_roles(asked.roles or (), request)[1]
        if any(file.role == "general" for file in files) and not any(spec.kind == "clip" for spec in specs):
            names = ", ".join(spec.name for spec in specs)
            raise InputError(
                f"evaluate.files: prompts of role general have a CLIP score alone, and judge {names} gives none; add "
                "--judge clip"
            )
    elif files:
        raise InputError("evaluate.files need a judge on this model; name one: --judge clip, imagenet or nudenet")
    elif asked.inception is not None:
        raise InputError("evaluate.inception needs a judged run; name a judge of this model: --judge clip, say")
    for file in files:
        file_asks(request, file, request.concepts[0].kind, world)
    return warnings + split


def check_variant(model: str, variant: str | None) -> None:
    """Raises `InputError` for a variant of what has none."""
    if variant is not None and (model == WORLD or run_folders(model)):
        what = "the bundled world" if model == WORLD else "a run"
        raise InputError(f"variant: {what} has none, got {variant!r}; leave it out")


def named_request(config: Config) -> Request:
    """The concepts as far as the user named them, without neighbours where they are to be chosen, and earlier ones.

    In the world every name is canonical. Raises `InputError` for one that it lacks or that does not fit, for a concept
    given twice, and for an anchor or neighbour that is to be erased as well, or was.
    """
    world = vocabulary_of(first_model(config.model))
    request = Request(tuple(_named(section, world) for section in config.concepts))
    own = [concept.name.lower() for concept in request.concepts]
    earlier = {c.name.lower(): c for c in _earlier(config, world) if c.name.lower() not in own}
    request = Request(request.concepts, tuple(earlier.values()))
    twice = next((concept for concept in request.concepts if own.count(concept.name.lower()) > 1), None)
    if twice:
        raise InputError(f"concept: {twice.name!r} is given twice; take one out")
    for concept in request.concepts:
        for key, words in (("anchor", concept.anchor), *(("keep", kept) for kept in concept.keep)):
            if words.lower() in request.gone:
                when = "was erased by an earlier run" if words.lower() in earlier else "is to be erased as well"
                raise InputError(f"concept.{key}: {words!r} {when}; name another one")
    if world:
        _check_world(request, world)
    return request


def less_memory(config: Config) -> str:
    """What to do when a GPU's memory did not suffice for this run."""
    method = config.method
    if config.train is None:
        return f"{method.name} also runs on the CPU: --device cpu"
    smaller = SMALLER[config.memory]
    if smaller is not None:
        return f"take the settings for less: --memory {smaller}"
    steps = []
    if config.train.batch > 1:
        total = config.train.batch * config.train.accumulate
        steps.append(f"smaller micro-batches: --set train.batch=1 --set train.accumulate={total}")
    if method.rank is None:
        fewer = "" if method.parameters == "xattn-kv" else "fewer weights: --set method.parameters=xattn-kv, or "
        steps.append(f"{fewer}a LoRA: --set method.rank=4")
    return f"take {'; or '.join(steps)}" if steps else "this model needs a larger GPU; --device cpu takes long"


def _check_world(request: Request, world: Vocabulary) -> None:
    if len(request.kinds) > 1:
        names = title([concept.name for concept in request.concepts])
        raise InputError(
            f"concept: {names} are objects and styles, and the world is judged by one kind at a time; erase one kind, "
            "then give that run's folder as model"
        )
    for names in (world.object_names, world.style_names):
        if set(names) <= request.gone:
            raise InputError(f"concept: nothing would be left of the world's {len(names)} names like {names[0]!r}")


def _again(config: Config, request: Request) -> list[str]:
    """A warning for each concept that an earlier run erased already."""
    before = {concept.name.lower() for concept in _earlier(config, vocabulary_of(first_model(config.model)))}
    names = [concept.name for concept in request.concepts if concept.name.lower() in before]
    return [f"{name!r} was erased by an earlier run already; this one begins from what is left of it" for name in names]


def _earlier(config: Config, world: Vocabulary | None) -> Iterator[Concept]:
    """What the runs that made the model erased, the first run's first."""
    for folder in reversed(run_folders(config.model)):
        for section in load_config(folder / CONFIG).concepts:
            yield _named(section, world)


def _named(given: ConceptSection, world: Vocabulary | None) -> Concept:
    kept = () if given.keep == "auto" else tuple(given.keep)
    if world:
        if given.synonyms:
            raise InputError(
                f"concept.synonyms: the world has its own for {given.name!r}; leave them out, and see --roles"
            )
        return world_concept(given.name, given.kind, given.anchor, kept, world)
    kind = "object" if given.kind == "auto" else given.kind
    return Concept(given.name, kind, given.anchor, kept, tuple(given.synonyms or ()))


def _words(section: ConceptSection) -> list[str]:
    """All that a section names."""
    kept = [] if section.keep == "auto" else section.keep
    return [word for word in (section.name, section.anchor, *kept) if word]


def anywhere(config: Config) -> EvaluateSection:
    """The settings of judging with absolute paths."""
    asked = config.evaluate
    files, judges = read_prompt_files(asked.files or ()), parse_judges(asked.judges or ())
    absolute = {"files": [file.text() for file in files] or None, "judges": [spec.text() for spec in judges] or None}
    inception = asked.inception if asked.inception in (None, AUTO) else str(user_path(asked.inception).absolute())
    return asked.model_copy(update={**absolute, "inception": inception})
