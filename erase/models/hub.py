"""Models by their id on the Hugging Face hub: the snapshot in the local cache, and what of it is to be fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.errors import InputError, Interrupted, first_line
from erase.events import OnEvent, Progress, ShouldStop
from erase.models.families import FAMILIES, Family
from erase.models.weights import CONFIG, INDEX, family_of, pick_variant, read_json, stem, weight_names
from erase.runtime import user_path

FORM = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@(?!.*\.\.)(\w[\w./+-]*))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
TEXTS = (".json", ".txt")  # configurations, and the words of tokenizers
MB = 1_000_000
CONFIGS = sorted({f"{family.denoiser}/{CONFIG}" for family in FAMILIES.values()})


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository on the hub, and a branch, tag or commit of it; None: its main branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def hub_id(source: str) -> HubId | None:
    """The id that `source` is, `org/name` or `org/name@revision`; None if it is none, or if such a path exists."""
    found = FORM.fullmatch(source)
    return None if found is None or user_path(source).exists() else HubId(found[1], found[2])


def is_offline() -> bool:
    """Whether nothing may be fetched: HF_HUB_OFFLINE is set, as `--offline` does."""
    from huggingface_hub import constants

    # The library reads the variable once, when it is imported.
    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def snapshot(wanted: HubId, variant: str | None, on_event: OnEvent, should_stop: ShouldStop) -> tuple[Path, HubId]:
    """The folder with a model's files, fetched where the cache lacks them, and the id with its exact commit.

    Only configurations, tokenizers and the safetensors of one variant are fetched. A branch or tag is looked up on the
    hub, and taken from the cache where the hub cannot be reached. Raises `InputError` for what cannot be had.
    """
    cached = _cached(wanted)
    if is_offline():
        return _from_cache(wanted, cached, variant, "offline: fetch it once without --offline (HF_HUB_OFFLINE)")
    if cached is not None and COMMIT.fullmatch(wanted.revision or "") and _lacking(wanted, cached, variant) is None:
        return _exact(wanted, cached)
    try:
        with _said_plainly(wanted):
            return _fetch(wanted, variant, on_event, should_stop)
    except _Unreachable as error:
        return _from_cache(wanted, _cached(wanted), variant, f"{error}; check the connection, or give a folder or file")


class _Unreachable(Exception):
    """The hub gave no answer."""


def _exact(wanted: HubId, folder: Path) -> tuple[Path, HubId]:
    return folder, HubId(wanted.repo, folder.name)


def _cached(wanted: HubId) -> Path | None:
    """The snapshot's folder in the cache, which may lack files."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(wanted.repo, INDEX, revision=wanted.revision)
    except HFValidationError as error:
        raise InputError(f"no such folder or file, and no id on the hub ({' '.join(str(error).split())})") from None
    return Path(found).parent if isinstance(found, str) else None


def _from_cache(wanted: HubId, cached: Path | None, variant: str | None, why: str) -> tuple[Path, HubId]:
    if cached is None:
        raise InputError(f"no such folder or file, not in the hub's cache, and {why}")
    lacking = _lacking(wanted, cached, variant)
    if lacking is not None:
        raise InputError(f"the hub's cache has only a part of it ({lacking}), and {why}")
    return _exact(wanted, cached)


def _lacking(wanted: HubId, folder: Path, variant: str | None) -> str | None:
    """What a snapshot in the cache lacks, in words. Raises `InputError` for a model of no family."""
    names = [path.relative_to(folder).as_posix() for path in folder.glob("**/*") if path.is_file()]
    family = _family(folder)
    empty = [part for part in family.folders if not any(_is_text_of(part, name) for name in names)]
    if empty:
        return f"it lacks {', '.join(empty)}"
    try:
        list(_weights(folder, names, family, variant, wanted.repo))
    except InputError as error:
        return str(error)
    return None


def _fetch(wanted: HubId, variant: str | None, on_event: OnEvent, should_stop: ShouldStop) -> tuple[Path, HubId]:
    from huggingface_hub import HfApi, hf_hub_download

    about = HfApi().model_info(wanted.repo, revision=wanted.revision, files_metadata=True, timeout=10)
    sizes = {file.rfilename: file.size or 0 for file in about.siblings or []}
    if INDEX not in sizes:
        raise InputError(_no_index(wanted, sizes))
    commit = HubId(wanted.repo, about.sha)
    # By the name that was given as well, so that the cache knows which commit a branch stood for.
    hf_hub_download(wanted.repo, INDEX, revision=wanted.revision, tqdm_class=_meter(lambda _: None))
    get = _Getter(commit, sizes, on_event, should_stop)
    get([name for name in (INDEX, *CONFIGS) if name in sizes])
    folder = _cached(commit)
    if folder is None:
        raise InputError(f"{INDEX} is not in the cache after it was fetched; is the cache being cleared?")
    family = _family(folder)
    texts = [name for part in family.folders for name in sizes if _is_text_of(part, name)]
    get(texts)
    get(list(_weights(folder, sizes, family, variant, str(wanted))))
    return _exact(wanted, folder)


def _no_index(wanted: HubId, names: Collection[str]) -> str:
    files = [name for name in names if "/" not in name and name.endswith((".safetensors", ".ckpt"))]
    if not files:
        return f"{wanted} has no {INDEX}, so it is no diffusers model"
    fetch = f"hf download {wanted.repo} {files[0]}"
    return f"{wanted} has no {INDEX} but the single files {', '.join(files[:5])}; fetch one ({fetch}) and give its path"


def _family(folder: Path) -> Family:
    """With the parts that it has. Raises `InputError` for a snapshot of no family, before its weights are fetched."""
    return FAMILIES[family_of(folder)[0]].held(read_json(folder / INDEX))


def _is_text_of(part: str, name: str) -> bool:
    return name.startswith(f"{part}/") and name.count("/") == 1 and name.endswith(TEXTS)


def _weights(folder: Path, names: Collection[str], family: Family, variant: str | None, where: str) -> Iterator[str]:
    """The weight files of all parts, from the names in a repository; its indices of shards lie in `folder`."""
    for part, kind in family.parts.items():
        held = {name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")}
        found = pick_variant(held, stem(kind), variant, f"{where}/{part}")
        yield from (f"{part}/{name}" for name in weight_names(folder / part, held, kind, found))


class _Getter:
    """Fetches files of one commit that the cache lacks, one after another."""

    def __init__(self, commit: HubId, sizes: dict[str, int], on_event: OnEvent, should_stop: ShouldStop) -> None:
        self.commit, self.sizes, self.on_event, self.should_stop = commit, sizes, on_event, should_stop

    def __call__(self, names: list[str]) -> None:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        repo, revision = self.commit.repo, self.commit.revision
        missing = [n for n in names if not isinstance(try_to_load_from_cache(repo, n, revision=revision), str)]
        total, done = sum(self.sizes[name] for name in missing), 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            if self.should_stop():
                raise Interrupted(f"stopped while fetching {repo}; the same command goes on with what is left")
            if total >= MB:  # a bar for a few small texts would only flicker
                self.on_event(Progress(what=f"MB of {repo}", done=min(done, total) // MB, total=total // MB))

        for name in missing:
            hf_hub_download(repo, name, revision=revision, tqdm_class=_meter(count))


def _meter(count: Any) -> Any:
    """A class in the form of tqdm's that draws nothing and passes on how much has come."""
    from tqdm import tqdm

    class Meter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            count(int(n or 0))

    return Meter


@contextmanager
def _said_plainly(wanted: HubId) -> Iterator[None]:
    """Turn what the hub's library raises into one line, and keep its own advice off the terminal."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    login = "log in with `hf auth login`"
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{wanted.repo} is gated: accept its terms on its page on the hub, and {login}") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"no such folder or file, and not on the hub, or private there: check the name, or {login}"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{wanted.repo} has no branch, tag or commit {wanted.revision!r}") from None
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(f"a file of {wanted.repo} is gone from the hub ({first_line(error)}); try again") from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise InputError(f"the hub refuses {wanted.repo} ({status}): {login}") from None
        cause = error.__cause__ or error
        raise _Unreachable(f"the hub cannot be reached ({type(cause).__name__}: {first_line(cause)})") from None
    except OSError as error:
        why = error.strerror or first_line(error)
        raise InputError(f"{wanted.repo} cannot be fetched: {why}; the same command goes on where it stopped") from None
    finally:
        logging.set_verbosity(level)
