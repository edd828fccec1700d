"""Who a process is, what falls to it, and which of several processes speaks. No process is started."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from erase.cli import main
from erase.distributed import ALONE, NUMBERS, Group, hushed, last_words, launched, warn_of_launcher
from erase.errors import InputError
from erase.sampling import dealt
from erase.terminal import stopping_on_signals
from erase.training.shares import share


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", *(name for names in NUMBERS for name in names)):
        monkeypatch.delenv(name, raising=False)


def launch(monkeypatch: pytest.MonkeyPatch, rank: object, size: object, names: tuple[str, ...] = NUMBERS[0]) -> None:
    for name, value in zip(names, (rank, size, rank), strict=True):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("names", NUMBERS)
def test_a_process_knows_its_number_from_any_launcher(names, monkeypatch):
    assert launched() == ALONE
    launch(monkeypatch, 0, 1, names)
    assert launched() == ALONE
    launch(monkeypatch, 3, 4, names)
    assert launched() == Group(3, 4, 3)
    assert not launched().main


@pytest.mark.parametrize(("rank", "size", "said"), [("x", 2, "no whole number in RANK"), (2, 2, "2 of 2")])
def test_a_launcher_that_numbers_wrong_is_one_line(rank, size, said, monkeypatch, capsys):
    launch(monkeypatch, rank, size)
    assert main(["list", "methods"]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_shares_are_equal_disjoint_and_all_of_a_step():
    for batch, accumulate, size in ((4, 1, 2), (3, 4, 2), (6, 2, 3), (1, 4, 4), (4, 3, 4)):
        parts = [share(batch, accumulate, Group(rank, size)) for rank in range(size)]
        rows = range(batch)
        owned = [(m, r) for part in parts for m in part.micros for r in (rows[part.rows] if part.rows else rows)]
        assert sorted(owned) == [(m, r) for m in range(accumulate) for r in rows]
        assert len({(len(part.micros), len(rows[part.rows or slice(None)])) for part in parts}) == 1
    assert share(5, 3, ALONE).micros == range(3) and share(5, 3, ALONE).rows is None


def test_what_does_not_divide_is_refused_with_a_remedy():
    with pytest.raises(InputError, match="batch 3 and train.accumulate 1 .* 2 processes.*train.batch=4"):
        share(3, 1, Group(0, 2))
    with pytest.raises(InputError, match="batch 1 cannot .* 2 processes.*train.batch=2"):
        share(1, 2, Group(0, 2), in_order=True)
    assert share(2, 2, Group(1, 2), in_order=True).rows == slice(1, 2)


def test_batches_are_those_of_one_process_while_there_are_enough():
    assert dealt(32, 100, 2) == 32
    assert dealt(32, 10, 2) == 5
    assert dealt(32, 1, 4) == 1
    assert dealt(32, 0, 1) == 1


def test_one_process_alone_needs_no_other():
    assert ALONE.any(True) and not ALONE.any(False)
    assert (ALONE.mean(3.0), ALONE.gather("a"), ALONE.on_main(lambda: 5)) == (3.0, ["a"], 5)
    ALONE.wait()


def test_others_are_silent(monkeypatch, capsys):
    for rank, out, err in ((0, "out\n", "err\n"), (1, "", "")):
        launch(monkeypatch, rank, 2)
        with hushed():
            print("out")
            print("err", file=sys.stderr)
        assert capsys.readouterr() == (out, err)


def test_an_error_that_all_meet_is_said_once(monkeypatch):
    assert last_words("wrong", False, False) == "wrong"
    launch(monkeypatch, 0, 4)
    assert last_words("wrong", False, False) == "wrong"
    launch(monkeypatch, 1, 4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert last_words("wrong", False, False) is None  # process 0 of this machine read the same
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert last_words("wrong", False, False) == "process 1: wrong"  # another machine's files
    assert last_words("stopped", True, False) is None
    assert last_words("lost", False, True) is None


def test_what_is_one_process_is_refused_under_a_launcher(monkeypatch, capsys):
    launch(monkeypatch, 0, 2)
    assert main(["list", "methods"]) == 2
    assert "erase list is one process" in capsys.readouterr().err


def test_accelerate_that_started_one_process_is_told_of(monkeypatch):
    said = []
    warn_of_launcher(said.append)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    warn_of_launcher(said.append)  # one was asked for
    assert said == []
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    warn_of_launcher(said.append)
    assert len(said) == 1 and "torchrun" in said[0].text
    launch(monkeypatch, 0, 2)
    warn_of_launcher(said.append)
    assert len(said) == 1


def test_a_launchers_copy_of_a_signal_is_no_second_one():
    with stopping_on_signals(60.0) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    with pytest.raises(KeyboardInterrupt), stopping_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)


def test_devices_of_several_processes(monkeypatch):
    assert Group(1, 2, 1).device("cpu").type == "cpu"
    with pytest.raises(InputError, match="not available"):
        Group(1, 2, 1).device("cuda:7")
    monkeypatch.setattr("erase.distributed.pick_device", __import__("torch").device)
    with pytest.raises(InputError, match="cuda:1 is one GPU, and each of 2 processes takes its own; use cuda"):
        Group(1, 2, 1).device("cuda:1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match="process 2 of this machine has no GPU, there are 1"):
        Group(1, 2, 1).device("cuda")
