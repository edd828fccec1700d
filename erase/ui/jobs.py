"""The queue: every run is a process of its own, one at a time; its state is on the disk and outlives the server."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from erase import runs
from erase.batch.worker import Ended
from erase.concept import title
from erase.config import Config, to_yaml
from erase.errors import InputError, first_line
from erase.runtime import write_text
from erase.ui.listing import Listing, RunInfo, Status, mark_sensitive, status_of
from erase.ui.progress import Watch
from erase.ui.records import (
    LOCK,
    LOG,
    SETTINGS,
    UNDER_WAY,
    Adopted,
    Record,
    State,
    lock,
    read_all,
    remove,
    write,
    written,
)
from erase.ui.roots import Roots
from erase.ui.starting import Process, Start, arguments_of, check_elsewhere, reserve, worker_of

MOMENT = 10.0  # seconds in which a form submitted again is the same run
AGAIN = 5.0  # seconds after which a further stop is another one
POLL = 0.1
TURNS = 32  # comparisons that may wait
IN_A_ROW = 4  # of them before a queued run has its turn


class _Ticket:
    """A place in the queue for work in this process."""

    granted = False


class Jobs:
    """The queue of one server. Every method may be called from any thread.

    `concurrency` processes or turns have the device at a time; `most` may be queued. `before_start` are called before
    each process starts: to give back what memory of the device this process holds.
    """

    def __init__(self, roots: Roots, *, concurrency: int = 1, most: int = 200, start: Start | None = None) -> None:
        """Take up what an earlier server left. Raises `InputError` if another one works in the same runs' folder."""
        self.roots, self.before_start = roots, list[Callable[[], None]]()
        self._concurrency, self._most, self._launch = concurrency, most, start or worker_of(roots)
        self._change = threading.Condition(threading.RLock())
        held = lock(roots.jobs / f".{LOCK}")
        if held is None:
            raise InputError(f"another server works in {roots.runs}; stop it, or choose another folder for the runs")
        self._held, self._closing = held, False
        self._processes: dict[str, Process] = {}
        self._urged: set[str] = set()  # asked twice to stop
        self._waiting: list[_Ticket] = []
        self._granted: set[_Ticket] = set()
        self._in_a_row = 0
        self._recent: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._watch, self._listing = Watch(), Listing(roots)
        self._troubles: dict[str, str] = {}  # told already, so that a lasting one does not fill the log
        for place in (roots.jobs, roots.runs, roots.exports):  # a server that died while it deleted
            for left in place.glob(".gone-*"):
                shutil.rmtree(left, ignore_errors=True)
        self._records = {record.name: record for record in read_all(roots.jobs)}
        for record in list(self._records.values()):
            if record.state not in UNDER_WAY and self._is_gone(record.name):
                self._forget(record.name)
        self._order = max((record.order for record in self._records.values()), default=0)
        for record in list(self._records.values()):
            if record.state in ("running", "stopping"):
                self._processes[record.name] = Adopted(
                    record.pid, self._place(record.name), roots.runs / record.name, record.task
                )
        self._thread = threading.Thread(target=self._work, daemon=True, name="erase queue")
        self._thread.start()

    def submit(self, config: Config, sensitive: bool = False, key: str | None = None) -> str:
        """Queue a run; return its name. The same `key` again within a moment gives the same run.

        The run's folder is chosen here, whatever the configuration says of it.
        """
        settings = to_yaml(config.model_copy(update={"output": None}))  # slow, so nobody waits for it
        with self._change:
            known = self._recent.get(key) if key else None
            again = self._records.get(known[1]) if known and time.monotonic() - known[0] < MOMENT else None
            if again and again.state not in ("stopped", "failed"):  # one that came to nothing is wanted anew
                return again.name
            self._check_room()
            concepts = title([concept.name for concept in config.concepts])
            folder = reserve(self.roots, concepts, config.method.name)
            record = Record(
                folder.name,
                sensitive=sensitive,
                concept=concepts,
                method=config.method.name,
                optimizer=config.train.optimizer if config.train else "",
                model=self._listing.model_name(config.model),
                created=datetime.now().astimezone().isoformat(timespec="seconds"),
            )
            try:
                write_text(self._place(folder.name) / SETTINGS, settings)
                self._queue(record)
            except BaseException:
                with suppress(OSError):
                    folder.rmdir()
                raise
            if key:
                self._recent[key] = time.monotonic(), folder.name
                while len(self._recent) > 1000:
                    self._recent.popitem(last=False)
            return folder.name

    def resume(self, name: str) -> str:
        """Queue a run that was stopped or failed, to go on from its last checkpoint; return its name."""
        with self._change:
            folder, record = self.roots.run(name), self._records.get(name)
            if record and record.state in UNDER_WAY:
                return name
            if (folder / runs.DONE).exists():
                raise InputError(f"run {name!r} is finished; nothing is left to resume")
            if record is None:
                self.roots.usable(runs.require_run(folder))
            check_elsewhere(folder, written(self.roots.jobs, name))
            self._check_room()
            self._queue(replace(record or Record(name), task="run"))
            return name

    def evaluate(self, name: str) -> str:
        """Queue the judging of a run with a trained model; return its name."""
        with self._change:
            folder, record = self.roots.finished(name), self._records.get(name)
            if record and record.state in UNDER_WAY:
                if record.task == "eval":
                    return name
                raise InputError(f"run {name!r} is still under way; evaluate it when it is finished")
            if not (folder / runs.DONE).exists():
                raise InputError(f"run {name!r} is not finished; resume it, which judges it too")
            self._check_room()
            self._queue(replace(record or Record(name), task="eval"))
            return name

    def stop(self, name: str) -> None:
        """Take a run out of the queue, or let it end after its round; what there is stays, to be resumed.

        Asked again after some seconds, it ends at once, without saving; a third time, it is killed. One that is not
        under way stays as it is.
        """
        with self._change:
            record = self._records.get(self.roots.run_name(name))
            if record is None:
                self.roots.run(name)
            elif record.state == "queued":
                self._store(replace(record, state=self._state_of(record), error=""))
                self._change.notify_all()
            elif name in self._processes and record.state == "running":
                self._store(replace(record, state="stopping", asked=time.time()))
                self._processes[name].stop()
            elif name in self._processes and time.time() - record.asked > AGAIN:
                self._store(replace(record, asked=time.time()))
                (self._processes[name].kill if name in self._urged else self._processes[name].stop)()
                self._urged.add(name)

    def delete(self, name: str) -> None:
        """Remove a run that is not under way, with all of it. Raises `InputError` if others began from it."""
        with self._change:
            record = self._records.get(self.roots.run_name(name))
            if record and record.state in ("running", "stopping"):
                raise InputError(f"run {name!r} is under way; stop it first")
            if record and self._is_gone(name):  # someone else removed its folder
                self._forget(name)
                return
            folder = self.roots.run(name)
            if record is None:
                runs.require_run(folder)
            if record is None or record.state != "queued":
                check_elsewhere(folder, written(self.roots.jobs, name))
            later = [info.name for info in self.listing() if info.model == f"run:{name}"]
            if later:
                raise InputError(f"run {name!r} is what {', '.join(later[:3])} began from; delete these first")
            remove(folder)
            self._forget(name)

    def status(self, name: str) -> Status:
        """How a run is doing; also of one that the command line made."""
        with self._change:
            record, place = self._records.get(self.roots.run_name(name)), self._queue_place(name)
        folder = self.roots.run(name)
        if record is None:
            runs.require_run(folder)
        info = self._listing.info(name, record, place)
        progress = self._watch(folder)
        return status_of(info, progress, folder)

    def listing(self) -> list[RunInfo]:
        """All runs, the newest first."""
        with self._change:
            records = dict(self._records)
            places = {name: place for place, name in enumerate(self._queued(), 1)}
        return self._listing(records, places)

    @contextmanager
    def turn(self, on_place: Callable[[int], None] = lambda place: None) -> Iterator[None]:
        """The device for a moment, for work in this process: waits until no run has it.

        It goes before queued runs, which wait for four such turns at most; `on_place` hears its place when it changes,
        and 0 when its turn has come.
        """
        ticket, told = _Ticket(), 0
        with self._change:
            if len(self._waiting) >= TURNS:
                raise InputError(f"{TURNS} comparisons wait already; try again in a while")
            self._waiting.append(ticket)
            self._change.notify_all()
        try:
            while True:
                with self._change:
                    if self._closing:
                        raise InputError("the server is being stopped; try again when it runs again")
                    if ticket.granted:
                        break
                    place = self._waiting.index(ticket) + 1
                    if place == told:
                        self._change.wait(1.0)
                        continue
                told = place
                on_place(place)
            on_place(0)
            yield
        finally:
            with self._change:
                self._granted.discard(ticket)
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                self._change.notify_all()

    @property
    def closing(self) -> bool:
        """Whether the server is being stopped."""
        return self._closing

    def close(self, timeout: float = 30.0) -> None:
        """Stop what runs and wait for it; what is queued stays so for the next server."""
        with self._change:
            if self._closing:
                return
            self._closing = True
            for name in self._processes:
                if self._records[name].state == "running":  # asked twice, one would end without saving
                    self.stop(name)
            self._change.notify_all()
        self._thread.join()
        end = time.monotonic() + timeout
        while self._reap() and time.monotonic() < end:
            time.sleep(0.05)
        for process in self._processes.values():
            process.kill()
        end = time.monotonic() + 5
        while self._reap() and time.monotonic() < end:
            time.sleep(0.05)
        os.close(self._held)

    def _place(self, name: str) -> Path:
        return self.roots.jobs / name

    def _queued(self) -> list[str]:
        found = [record for record in self._records.values() if record.state == "queued"]
        return [record.name for record in sorted(found, key=lambda record: record.order)]

    def _queue_place(self, name: str) -> int:
        record = self._records.get(name)
        return self._queued().index(name) + 1 if record and record.state == "queued" else 0

    def _check_room(self) -> None:
        if self._closing:
            raise InputError("the server is being stopped; try again when it runs again")
        if len(self._queued()) >= self._most:
            raise InputError(f"{self._most} runs are queued already; try again when some are done")

    def _queue(self, record: Record) -> None:
        self._order += 1
        record = replace(record, state="queued", order=self._order, error="", pid=0, asked=0.0)
        write(self.roots.jobs, record)
        self._records[record.name] = record
        self._change.notify_all()

    def _store(self, record: Record) -> None:
        """Keep a new state; a full disk must not end the queue, and the run's own folder tells how far it got."""
        self._records[record.name] = record
        with suppress(InputError):
            write(self.roots.jobs, record)

    def _state_of(self, record: Record) -> State:
        return "done" if (self.roots.runs / record.name / runs.DONE).exists() else "stopped"

    def _work(self) -> None:
        """Start what may start and see what ended, until the server is closed."""
        with self._change:
            while not self._closing:
                self._reap()
                self._begin()
                self._change.wait(POLL if self._processes else None)

    def _reap(self) -> int:
        """Take note of processes that ended; return how many go on."""
        with self._change:
            for name, process in list(self._processes.items()):
                try:
                    self._mark(self._records[name])  # others may look at it from now on
                    ended = process.poll()
                    if ended is not None:
                        self._end(self._records[name], ended)
                        del self._processes[name]
                        self._urged.discard(name)
                except Exception as error:  # whatever it is, the queue goes on, and looks again
                    if self._troubles.get(name) != repr(error):
                        self._troubles[name] = repr(error)
                        traceback.print_exception(error, file=sys.stderr)
            return len(self._processes)

    def _mark(self, record: Record) -> None:
        if record.sensitive:
            mark_sensitive(self.roots.runs / record.name)

    def _is_gone(self, name: str) -> bool:
        return not os.path.lexists(self.roots.runs / name)

    def _forget(self, name: str) -> None:
        """Drop what is known of a run whose folder is gone."""
        self._records.pop(name, None)
        self._troubles.pop(name, None)
        remove(self._place(name))
        self._watch.forget(self.roots.runs / name)
        remove(self.roots.exports / name)

    def _end(self, record: Record, ended: Ended) -> None:
        state = self._state_of(record)
        if ended.code != 0 and not ended.stopped and record.state != "stopping":
            state = "failed"
        elif ended.code == 0:
            state = "done"
        error = ended.error if state == "failed" else ""
        self._mark(record)
        self._store(replace(record, state=state, error=error or ("failed" if state == "failed" else ""), pid=0))
        self._change.notify_all()

    def _begin(self) -> None:
        while self._concurrency > len(self._processes) + len(self._granted):
            queued = self._queued()
            if self._waiting and not (queued and self._in_a_row >= IN_A_ROW):
                ticket = self._waiting.pop(0)
                ticket.granted = True
                self._granted.add(ticket)
                self._in_a_row += 1
                self._change.notify_all()
            elif queued:
                self._in_a_row = 0
                self._begin_job(self._records[queued[0]])
            else:
                return

    def _begin_job(self, record: Record) -> None:
        job = self._place(record.name)
        try:
            for call in self.before_start:
                call()
            held = lock(job / LOCK)
            if held is None:
                raise InputError(f"run {record.name!r} still has a process; end it")
            try:
                (job / LOG).unlink(missing_ok=True)
                process = self._launch(arguments_of(self.roots, record), job / LOG, [held])
            finally:
                os.close(held)  # the process has its own
        except Exception as error:  # whatever it is, the queue goes on
            self._store(replace(record, state="failed", error=first_line(error)))
            return
        self._processes[record.name] = process
        self._store(replace(record, state="running", pid=process.pid))
