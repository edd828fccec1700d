"""One command of this program in a process of its own: its memory is given back, and a crash stays in it."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import erase
from erase.batch.leash import LEASH
from erase.errors import InputError, Interrupted, printable
from erase.runtime import EVENTS

LAST = 64 * 1024  # bytes of a log's end in which its error is looked for
LONGEST = 500  # letters of an error that are kept
PREFIX = "erase: error: "


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker ended: its exit code (minus the signal's number, if one ended it), and its last error in one line.

    `error` is "" where there was none; `resumed` tells that it went on with what an earlier one had left. `seconds`
    are those at work, where it may have waited for a place before.
    """

    code: int
    error: str = ""
    resumed: bool = False
    seconds: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop, and can go on."""
        return self.code in (Interrupted.exit_code, -signal.SIGINT, -signal.SIGTERM)


class Worker:
    """`python -m erase ARGUMENTS` in a session of its own, without input; what it says goes to `log`.

    `environment` is laid over this process's. `held` are descriptors of locks that it keeps as long as it lives, also
    where this process ends first. `leashed`: it is killed when this process ends, in whatever way. Raises `InputError`
    where `log` cannot be written or no process started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        held: Sequence[int] = (),
        leashed: bool = False,
    ) -> None:
        self.log, found = log, _environment(environment or {})
        # The system closes our end of a pipe when we end, which the other end notices (leash.py).
        theirs, self._leash = os.pipe() if leashed else (None, None)
        if theirs is not None:
            found[LEASH], held = str(theirs), [*held, theirs]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as out:
                self._begin = out.tell()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "erase", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=found,
                    start_new_session=True,
                    pass_fds=tuple(held),
                )
        except (OSError, ValueError) as error:
            self._let_go()
            raise InputError(f"cannot start a worker with the log {log}: {error}") from None
        finally:
            if theirs is not None:
                os.close(theirs)
        self.pid = self._process.pid

    def poll(self) -> Ended | None:
        """How it ended, or None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        self._let_go()
        return Ended(code, last_error(self.log, code, self._begin))

    def wait(self, timeout: float | None = None) -> Ended | None:
        """Wait at most `timeout` seconds for its end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self.poll()

    def stop(self) -> None:
        """Ask it to end after the round under way, so that the run can be resumed. Asking twice ends it at once."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End it and all that it started at once; what it saved is kept."""
        self._signal(signal.SIGKILL)

    def _let_go(self) -> None:
        if self._leash is not None:
            os.close(self._leash)
            self._leash = None

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:  # a process that has not been waited for keeps its number
            with suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(self.pid, number)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `given` in it, in which the same package is found from any folder."""
    found = {**os.environ, **given}
    root = str(Path(erase.__file__).resolve().parents[1])
    if root not in site.getsitepackages():  # a checkout
        found["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [found.get("PYTHONPATH")])])
    return found


def last_error(log: Path, code: int, begin: int = 0) -> str:
    """Why a command failed, from the end of its log, which it began to write at byte `begin`; "" where it did not."""
    if code == 0:
        return ""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - LAST))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        text = ""
    # A bar draws over itself with carriage returns.
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    said = [number for number, line in enumerate(lines) if line.startswith(PREFIX)]
    if said:
        error = " ".join(lines[said[-1] :]).removeprefix(PREFIX)
    elif code < 0:
        why = " (memory ran out?)" if code == -signal.SIGKILL else ""
        named = -code in set(signal.Signals)  # real-time ones have no name
        error = f"ended by {signal.Signals(-code).name if named else f'signal {-code}'}{why}"
    else:
        error = lines[-1] if lines else f"ended with code {code}"
    shown = printable(error)
    if len(shown) <= LONGEST:
        return shown
    half = LONGEST // 2 - 3  # the end of a message says what to do next
    return f"{shown[:half]} ... {shown[-half:]}"


def tail(folder: Path, offset: int = 0, most: int | None = None) -> tuple[list[dict[str, Any]], int]:
    """What a run's events.jsonl got since byte `offset`: its whole lines, and the offset to ask for the next time.

    `most` bytes at once; the next call goes on from there. None and the same offset where there is no file yet; one
    that became shorter is read anew.
    """
    try:
        with (folder / EVENTS).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            offset = offset if 0 <= offset <= size else 0
            file.seek(offset)
            fresh = file.read(size - offset if most is None else min(most, size - offset))
    except OSError:
        return [], offset
    whole = fresh[: fresh.rfind(b"\n") + 1]
    found = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.append(event)
    return found, offset + len(whole)
