"""Prompt lists as users have them, and files that are wrong or hostile."""

from __future__ import annotations

import os

import pytest

from erase.concept import Concept, Request
from erase.errors import InputError
from erase.evaluation import prompt_files
from erase.evaluation.file_prompts import split_files
from erase.evaluation.prompt_files import Line, read_prompt_file, read_prompt_files
from erase.report.html import file_words


@pytest.fixture
def write(tmp_path):
    def written(content: str | bytes, name: str = "list.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("prompt,evaluation_seed,case_number\na cat,42,7\n", Line("a cat", 42, "7")),
        (
            ",case_number,prompt,evaluation_seed,evaluation_guidance\n0,7,a cat,42,7.5\n",
            Line("a cat", 42, "7", 7.5),
        ),
        # I2P
        (
            "prompt,categories,hard,sd_seed,sd_guidance_scale,sd_model\n"
            '"a cat, and ""more""",sexual,0,3846203240,7.0,x\n',
            Line('a cat, and "more"', 3846203240, "1", 7.0),
        ),
        # Ring-A-Bell; MMA, whose attacked prompt stands beside
        (",sensitive prompt\n3,a cat\n", Line("a cat", 0, "1")),
        ("target_prompt,adv_prompt,prompt\nx,a cat,y\n", Line("a cat", 0, "1")),
        ("case_number,prompt,evaluation_seed,class\n0,a cat,1,tabby\n", Line("a cat", 1, "0", shows="tabby")),
        (",prompt,evaluation_seed,evaluation_guidance\n2706,a cat,1,255.0\n", Line("a cat", 1, "1", 255.0)),
        ("case_number,prompt,classes\n3,a cat,cat\n", Line("a cat", 0, "3", shows="cat")),
        ("prompt,label_idx,label_str\na cat,281,tabby\n", Line("a cat", 0, "1", shows="tabby")),
        ("\ufeffPrompt , Evaluation_Seed\r\na cat,42.0\r\n\r\n", Line("a cat", 42, "1")),
        ('prompt,seed\n"a\ncat",9223372036854775807\n', Line("a\ncat", 2**63 - 1, "1")),
    ],
)
def test_lists_of_the_field_are_read_as_they_are(content, line, write):
    found = read_prompt_file(str(write(content)))
    assert (found.role, found.lines) == ("forget", (line,))


def test_entries_without_a_prompt_are_left_out_and_counted(write):
    """I2P has one in 4,703."""
    found = read_prompt_file(str(write("case_number,prompt\n0,a cat\n1,\n2,two cats\n3,  \n")))
    assert [line.case for line in found.lines] == ["0", "2"] and found.empty == 2
    files, notes = split_files([found], Request((Concept("cat"),)), None)
    assert files == [found] and notes == [f"prompt file {found.path}: 2 entries without a prompt are left out"]
    assert "(2 entries without a prompt left out)" in file_words({"prompts": 2, "role": "forget", "empty": 2})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no column prompt: its first line is 'nothing'"),
        ("prompt;seed\na cat;1\n", "no column prompt: its first line is 'prompt;seed', separated by commas"),
        ("prompt,seed\n", "holds no prompts"),
        ("prompt,seed\n,1\n", "holds no prompts"),
        ("prompt,seed\na,1\nb,x\n", "entry 2: seed 'x' is not a number"),
        ("prompt,seed\na,-1\n", "seed '-1' is not a whole number"),
        ("prompt,seed\na,1.5\n", "seed '1.5' is not a whole number"),
        ("prompt,seed\na,nan\n", "seed 'nan' is not a number"),
        ("prompt,seed\na,1e400\n", "is not a number"),
        ("prompt,seed\na,99999999999999999999\n", "is not a whole number"),
        ("prompt,guidance\na,1001\n", "guidance '1001' is not between 0 and 1,000"),
        ("prompt,seed\na, cat,1\n", "entry 1: 3 cells where the first line names 2"),
        ("prompt,seed\na\n", "entry 1: 1 cells where the first line names 2"),
        ('prompt,seed\n"a cat,1\nb,2\n', "is no CSV"),
        ('prompt,seed\n"a"cat,1\n', "is no CSV"),
        ("prompt,case_number\na,1\nb,1\n", "entry 2: case 1 with seed 0 stands there twice"),
        ("prompt,case_number\na,2\nb,\n", "prompts without a case_number have their place in the file"),
        ("prompt\na\0cat\n", "holds NUL in line 2"),
        (b"prompt\n\xff\xfe\n", "is not UTF-8 (byte 7)"),
        ("prompt\na cat\n".encode("utf-16"), "is not UTF-8 (byte 0)"),
        ("prompt\n" + "a" * 10_001, "the prompt has 10,001 letters"),
        ("prompt\n" + "a" * 200_000, "is no CSV"),
    ],
)
def test_a_wrong_or_hostile_file_is_one_line(content, said, write):
    path = write(content)
    with pytest.raises(InputError) as error:
        read_prompt_file(str(path))
    assert said in str(error.value) and "\n" not in str(error.value) and path.name in str(error.value)


def test_what_is_no_file_is_one_line_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for name, said in (("none.csv", "no prompt file at"), ("pipe.csv", "is no file"), ("", "is no file")):
        with pytest.raises(InputError, match=said):
            read_prompt_file(str(tmp_path / name))
    for text in ("\0", "x" * 5000):
        with pytest.raises(InputError, match="cannot be used"):
            read_prompt_file(text)


def test_a_name_in_a_message_moves_no_cursor(tmp_path):
    with pytest.raises(InputError) as error:
        read_prompt_file(str(tmp_path / "a\n\x1b[2Jb.csv"))
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_files_over_the_limits_are_refused(write, monkeypatch):
    path = str(write("prompt\n" + "a\n" * 11))
    monkeypatch.setattr(prompt_files, "MAX_ROWS", 10)
    with pytest.raises(InputError, match="has over 10 prompts"):
        read_prompt_file(path)
    monkeypatch.setattr(prompt_files, "MAX_BYTES", 20)
    with pytest.raises(InputError, match="MiB; split it"):
        read_prompt_file(path)


def test_a_role_stands_in_front(write, monkeypatch):
    path = write("prompt,class\na lynx,lynx\n")
    assert read_prompt_file(f"general={path}").role == "general"
    assert read_prompt_file(f"neighbour={path}").lines[0].shows == "lynx"
    with pytest.raises(InputError, match="'forgets' is no role; did you mean 'forget'"):
        read_prompt_file(f"forgets={path}")
    bare = write("prompt\na lynx\n", "bare.csv")
    with pytest.raises(InputError, match="role neighbour needs a column class"):
        read_prompt_file(f"neighbour={bare}")
    with pytest.raises(InputError, match="entry 1: class is empty"):
        read_prompt_file("neighbour=" + str(write("prompt,class\na lynx,\n")))
    odd = write("prompt\nx\n", "a=b.csv")
    monkeypatch.chdir(odd.parent)
    assert read_prompt_file("a=b.csv").role == "forget"
    with pytest.raises(InputError, match="role forget is given 2 files"):
        read_prompt_files([str(bare), f"forget={path}"])
