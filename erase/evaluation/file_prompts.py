"""What prompt files ask: whose picture each line is, and what a judge is to call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from erase.concept import Concept, Kind, Request
from erase.errors import InputError, printable
from erase.evaluation.open_prompts import offered_names
from erase.evaluation.prompt_files import CONCEPT_ROLES, TOLD_ROLES, Line, PromptFile
from erase.evaluation.prompts import Ask, resolve
from erase.evaluation.thesaurus import plain, same_things
from erase.world.vocabulary import Vocabulary


def concept_of(words: str, request: Request, world: Vocabulary | None) -> Concept | None:
    """Which of what is erased, or was, a file's `words` mean, if any: by its name or another word for it.

    Lists have artists and people by their full name, so there words that hold the concept's in a row mean it too.
    """
    erased, said = (*request.concepts, *request.earlier), plain(words)
    if world is not None:
        try:
            said = resolve(words, world)[1]
        except InputError:
            return None
        return next((concept for concept in erased if resolve(concept.name, world)[1] == said), None)
    exact = [concept for concept in erased if plain(concept.name) == said]
    other = [concept for concept in erased if said in same_things(concept)]
    within = [c for c in erased if c.kind in ("style", "person") and f" {plain(c.name)} " in f" {said} "]
    return next(iter(exact + other + within), None)


def split_files(
    files: Sequence[PromptFile], request: Request, world: Vocabulary | None
) -> tuple[list[PromptFile], list[str]]:
    """Prompt files by role, and a line for each that was split or had entries without a prompt.

    Published lists go over many classes, the erased one among them. Of such a file of role forget the lines that show
    something else are of `retain_in`, and those that show what an earlier run erased are left out. Raises `InputError`
    where `retain_in` has a file of its own.
    """
    found, notes = [], []
    for file in files:
        if file.empty:
            notes.append(f"prompt file {_short(file)}: {file.empty} entries without a prompt are left out")
        parts: dict[str, list[Line]] = {"forget": [], "retain_in": []}
        for line in file.lines:
            concept = concept_of(line.shows, request, world) if line.shows else request.concepts[0]
            if concept is None or concept in request.concepts:
                parts["retain_in" if concept is None else "forget"].append(line)
        if file.role != "forget" or len(parts["forget"]) in (0, len(file.lines)):
            found.append(file)
            continue
        if parts["retain_in"] and any(other.role == "retain_in" for other in files):
            raise InputError(
                f"prompt file {_short(file)} shows {request.title} and other things, which role retain_in has another "
                "file for; take one of the two out"
            )
        found += [replace(file, role=role, lines=tuple(lines)) for role, lines in parts.items() if lines]
        forget, kept = (len(lines) for lines in parts.values())
        text = f"prompt file {_short(file)}: {forget} prompts of {request.title} are forget, {kept} of others retain_in"
        lost = len(file.lines) - forget - kept
        notes.append(f"{text}; {lost} of what an earlier run erased are left out" if lost else text)
    return found, notes


def told_names(files: Sequence[PromptFile]) -> tuple[str, ...]:
    """What prompt files say that pictures of what is kept show, each once."""
    lines = (line for file in files if file.role in TOLD_ROLES for line in file.lines)
    return tuple(dict.fromkeys(plain(line.shows) for line in lines if line.shows))


def file_asks(
    request: Request, file: PromptFile, kind: str, world: Vocabulary | None, known: Sequence[str] | None = None
) -> list[Ask]:
    """The pictures of a prompt file, one for each of its lines.

    A line shows what its class says, else the concept; of `general` nothing is expected. Raises `InputError` for a
    line without a class where there are several concepts, for a class that is none of them where the role asks for
    the concept, that is erased where it asks for what is kept, or that the world, or the judge (`known`), has no name
    for, and for fewer than two prompts: one has no interval.
    """
    asks = []
    offered: dict[str, str] = {}
    if world is None:
        for name in offered_names(request, cast(Kind, kind)):
            offered.setdefault(plain(name), name)
    for line in file.lines:
        expected: dict[str, str | None] = {}
        if file.role != "general":
            try:
                expected[kind] = _shown(request, file.role, line, kind, world, offered, known)
            except InputError as error:
                raise InputError(f"prompt file {_short(file)}: case {printable(line.case)} {error}") from None
        if world is not None:
            expected = {"object": None, "style": None, "colour": None} | expected
        prompt_id = f"file.{file.role}.{line.case}"
        asks.append(Ask(file.role, line.prompt, prompt_id, "file", line.seed, expected, guidance=line.guidance))
    _check_counts(request, file, kind, asks, world)
    return asks


def _shown(
    request: Request,
    role: str,
    line: Line,
    kind: str,
    world: Vocabulary | None,
    offered: Mapping[str, str],
    known: Sequence[str] | None,
) -> str:
    """The name that the judge is to give a line's picture."""
    own = [concept.name if world is None else resolve(concept.name, world)[1] for concept in request.concepts]
    if line.shows is None:
        if len(own) > 1:
            raise InputError(f"does not say which of {request.title} it shows; add a column class")
        return own[0]
    shows = printable(line.shows)[:80]
    if world is not None:
        domain, name = resolve(line.shows, world)
        if domain != kind:
            raise InputError(f"shows {shows!r}, which is of kind {domain}; the run is judged by {kind}s")
    else:
        name = offered.get(plain(line.shows), plain(line.shows))
    erased = concept_of(line.shows, request, world)
    if role in CONCEPT_ROLES:
        if erased not in request.concepts:
            raise InputError(
                f"shows {shows!r}, and role {role} asks for {request.title}; correct its class, or leave the column out"
            )
        return own[request.concepts.index(erased)]
    if erased is not None:
        raise InputError(
            f"shows {shows!r}, which is erased ({erased.name}), and role {role} is of what is kept; take such lines "
            "out, or give the file without a role, which splits it"
        )
    if name.isdigit():
        raise InputError(f"shows the number {shows}; name what the picture is to show")
    elif known is not None and name not in known:
        raise InputError(f"shows {shows!r}, for which the judge has no name; name another judge, or take role general")
    return name


def _check_counts(request: Request, file: PromptFile, kind: str, asks: Sequence[Ask], world: Vocabulary | None) -> None:
    """Two prompts, and where several concepts are asked for two of each: a score of one has no interval."""
    prompts = {ask.prompt_id: ask.expected.get(kind) for ask in asks}
    if len(prompts) < 2:
        raise InputError(
            f"prompt file {_short(file)} has one prompt for {file.role}, and an interval needs two or more; add some"
        )
    if file.role != "forget" or len(request.concepts) < 2:
        return
    for concept in request.concepts:
        name = concept.name if world is None else resolve(concept.name, world)[1]
        if list(prompts.values()).count(name) < 2:
            raise InputError(f"prompt file {_short(file)} has fewer than two prompts for {name!r}; add some")


def _short(file: PromptFile) -> str:
    shown = printable(str(file.path))
    return shown if len(shown) <= 120 else f"...{shown[-117:]}"


def take_place(asks: Sequence[Ask], told: Sequence[Ask]) -> list[Ask]:
    """Asks with those of files in the place of their roles' own."""
    roles = {ask.role for ask in told}
    return [ask for ask in asks if ask.role not in roles] + list(told)
