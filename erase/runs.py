"""The run folder: its name, its files, and the rule that `DONE` is written last."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from erase.errors import AFRESH, InputError, Unresumable, first_line
from erase.events import Event, OnEvent, Warned, ignore, to_json
from erase.runtime import CHECKPOINTS, CONFIG, DONE, EVENTS, command, replacing, write_text

if sys.platform != "win32":
    import fcntl

GUARDS, ROWS, REPORT, PAGE = "guards.json", "rows.jsonl", "report.json", "report.html"
ATTACKS = "attacks.jsonl"
# Of the settings that weights are bound to. Raise it where they get other names or meanings: runs made before cannot be
# compared any more. A release that leaves them alone opens older runs.
FORMAT = "2"
MODEL = "model/trained.safetensors"
MOST = 10_000  # runs of one name


def new_folder(root: Path, concept: str, method: str, config: str) -> Path:
    """Make `<root>/<date>-<concept>-<method>[-n]` with its config.yaml; the number keeps runs of one day apart."""
    for name in names(concept, method):
        folder = root / name
        with _all_or_nothing(folder):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise InputError(f"cannot make the run folder {folder}: {error.strerror or error}") from None
            write_text(folder / CONFIG, config)
            return folder
    raise InputError(f"{root} holds {MOST:,} runs named {next(names(concept, method))}; choose another output")


def names(concept: str, method: str) -> Iterator[str]:
    """The names that a run of today may have, `<date>-<concept>-<method>[-n]`, the first one first."""
    # A name of a file has room for 255 letters; titles of several concepts may be longer.
    name = re.sub(r"[^a-z0-9]+", "-", f"{date.today().isoformat()}-{concept[:200]}-{method}".lower()).strip("-")
    return (name if n == 1 else f"{name}-{n}" for n in range(1, MOST))


def claim_folder(folder: Path, config: str) -> Path:
    """Make the folder the user named, with its config.yaml; it must not exist yet, or be empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        done, begun = ((folder / name).is_file() for name in (DONE, CONFIG))
        state = "a finished run" if done else "a run that is not finished" if begun else "other files"
        go_on = f", or go on with: {command('run', '--resume', folder)}" if begun and not done else ""
        raise InputError(f"output {folder} already holds {state}; name a new folder{go_on}")
    with _all_or_nothing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / EVENTS).open("x").close()  # of two that claim it at once, one fails here
        except FileExistsError:
            raise InputError(f"output {folder} is being written by another run; name a new folder") from None
        except OSError as error:
            raise InputError(f"cannot make the output folder {folder}: {error.strerror or error}") from None
        try:
            write_text(folder / CONFIG, config)
        except BaseException:
            (folder / EVENTS).unlink(missing_ok=True)
            raise
    return folder


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Remove the folders that the block made, `folder` and those above it, if it fails; never one with files in it."""
    made = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        yield
    except BaseException:
        for place in made:
            with suppress(OSError):
                place.rmdir()
        raise


def require_run(folder: Path, *, finished: bool = False) -> Path:
    """Check that `folder` is a run (and a finished one); say what is missing otherwise."""
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is no run folder: it has no {CONFIG}")
    if finished and not (folder / MODEL).is_file():
        raise InputError(f"{folder} has no trained model yet; finish it with: {command('run', '--resume', folder)}")
    return folder


def read_guards(folder: Path) -> dict[str, Any]:
    """What the run proved when its model was saved."""
    try:
        found = json.loads((folder / GUARDS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unresumable(f"{folder / GUARDS} is missing or damaged ({error}); {AFRESH}") from None
    if not isinstance(found, dict):
        raise Unresumable(f"{folder / GUARDS} holds no guards; {AFRESH}")
    return found


class EventLog:
    """Appends events to events.jsonl, one line each, and passes them on."""

    def __init__(self, folder: Path, listener: Any) -> None:
        self.path, self.listener = folder / EVENTS, listener
        self._end_torn_line()
        self._hold()

    def _hold(self) -> None:
        """Tell others that this folder is being worked on, by a shared lock that ends with this object."""
        if sys.platform == "win32":
            return
        with suppress(OSError):  # a file system without locks
            held = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            weakref.finalize(self, os.close, held)
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _end_torn_line(self) -> None:
        """A crash may have cut the last line; the next event must not be glued to it."""
        try:
            with self.path.open("rb+") as file:
                if file.seek(0, os.SEEK_END) == 0:
                    return
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from None

    def __call__(self, event: Event) -> None:
        line = json.dumps({"time": round(time.time(), 3), **to_json(event)}, allow_nan=False)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from None
        self.listener(event)


def at_work(folder: Path) -> bool | None:
    """Whether some command works on a run now; None where the system cannot tell."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder / EVENTS, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events so far; lines that are cut or lack what an event has are left out."""
    found = []
    path = folder / EVENTS
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.append(event)
    return found


def _is_timed(line: dict[str, Any]) -> bool:
    """Whether a line has what `timings` reads: one that was edited must not cost the report."""
    kind, seconds = line["event"], line.get("seconds", 0.0)
    numbers = all(isinstance(n, int | float) and math.isfinite(n) for n in (line.get("time"), seconds))
    lacking = (kind == "step" and "seconds" not in line) or (
        kind == "progress" and not isinstance(line.get("what"), str)
    )
    return numbers and not lacking


def timings(folder: Path) -> dict[str, float]:
    """Seconds of training, from the events.

    `setup_seconds` is all before the first step after each start, `pool_seconds` the sampling of pools then and later,
    `training_seconds` the steps, in which pools are sampled anew as well.
    """
    steps, setup, pools, last = [], 0.0, 0.0, 0.0
    started: float | None = None
    for event in filter(_is_timed, read_events(folder)):
        if event["event"] == "started":
            started = event["time"]
        elif event["event"] == "step":
            steps.append(event["seconds"])
            if started is not None:
                setup += max(0.0, event["time"] - event["seconds"] - started)
                started = None
        elif event["event"] == "progress" and event["what"].endswith(" latents"):
            pools += max(0.0, event["time"] - last)
        last = event["time"]
    total = float(sum(steps))
    mean = total / len(steps) if steps else 0.0
    return {"setup_seconds": setup, "pool_seconds": pools, "training_seconds": total, "seconds_per_step": mean}


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write a safetensors file that says what it is about, all or nothing."""
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        try:
            # One entry: several are written in another order each time, and the same weights are to be the same file.
            save_file(ready, temporary, metadata={"erase": json.dumps(about)})
        except SafetensorError as error:  # safetensors wraps a full disk in its own error
            raise InputError(f"cannot write {path}: {error}") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file that `save_tensors` wrote: its tensors and what it says they are; a damaged one is an `InputError`."""
    about = read_about(path)
    try:
        return load_file(path), about
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or missing ({error})") from None


def read_about(path: Path) -> dict[str, Any]:
    """What a file that `save_tensors` wrote says its tensors are; raises as `load_tensors` does."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("erase", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or missing ({error})") from None
    return about if isinstance(about, dict) else {}


def save_checkpoint(folder: Path, state: dict[str, Any], keep: int = 1) -> Path:
    """Write everything that resume needs, all or nothing, named by its round; then drop all but the newest `keep`.

    Checkpoints of later rounds go too: the run went on from before them, so they were damaged.
    """
    path = folder / CHECKPOINTS / f"state-{state['round']:07d}.pt"
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk so
            raise InputError(f"cannot write {path}: {error}") from error
        _sync(temporary)
    _sync(path.parent)  # the rename too is on the disk before anything else is taken off it
    kept = [other for other in checkpoints(folder) if other.name <= path.name][:keep]
    for other in set(checkpoints(folder)) - set(kept):
        other.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints, newest first."""
    return sorted((folder / CHECKPOINTS).glob("state-*.pt"), reverse=True)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(folder: Path, on_event: OnEvent = ignore) -> tuple[Path, dict[str, Any]] | None:
    """A run's newest whole checkpoint and where it lies, or None if the run has none yet.

    Warns of each newer one that is damaged. Raises `InputError` if all are.
    """
    found = checkpoints(folder)
    for number, path in enumerate(found):
        try:
            return path, _whole(path)
        except InputError as error:
            if number + 1 == len(found):
                raise Unresumable(f"{error}; {AFRESH}") from None
            on_event(Warned(text=f"{error}; going on from {found[number + 1].name}"))
    return None


def _whole(path: Path) -> dict[str, Any]:
    """A checkpoint's state. Raises `InputError` for one that is damaged, also if only a number in it is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes the checksums and does not read them
            if wrong := archive.testzip():
                raise ValueError(f"wrong checksum of {wrong}")
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file raises whatever its bytes happen to call for
        why = first_line(error)
        raise InputError(f"{path} is damaged ({why})") from None
    if not isinstance(state, dict) or not isinstance(state.get("round"), int):
        raise InputError(f"{path} is no checkpoint of a run")
    return state


def check_origin(path: Path, found: Any, wanted: dict[str, str]) -> None:
    """Refuse weights that were trained with other settings or from other weights than the run has now."""
    found = found if isinstance(found, dict) else {}
    if found.get("format") != wanted["format"]:
        raise Unresumable(f"{path} was made by a version of erase whose runs this one cannot open; {AFRESH}")
    for what, value in wanted.items():
        if found.get(what) != value:
            raise Unresumable(
                f"{path} was made with other {what} than the run has now: {CONFIG} or the model was changed since; "
                f"change it back, or {AFRESH}"
            )


def finish(folder: Path) -> None:
    """Write `DONE`."""
    write_text(folder / DONE, time.strftime("%Y-%m-%dT%H:%M:%S%z") + "\n")
