import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_tools.common.cli import UserError
from data_tools.common.files import (
    digest,
    read_json,
    read_json_lines,
    refuse_existing,
    resumable_folder,
    whole_file,
    whole_folder,
    work_folder,
    write_json,
)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out") as scratch:
        (scratch / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "out") as scratch:
        (scratch / "deep").mkdir()
        (scratch / "deep" / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_is_kept_unless_asked(tmp_path):
    with whole_folder(tmp_path / "out") as scratch:
        (scratch / "old").write_text("x")
    with pytest.raises(UserError, match="exists already"), whole_folder(tmp_path / "out"):
        pass
    with whole_folder(tmp_path / "out", overwrite=True) as scratch:
        (scratch / "new").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert len(list(tmp_path.iterdir())) == 1


WRITER = """
import sys, time
from data_tools.common.files import {function}
with {function}(sys.argv[1]{more}) as scratch:
    {write}
    print('half', flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def writer(path, function="whole_folder", write="(scratch / 'half').write_text('x')", more=""):
    """Another process that has begun to write."""
    program = WRITER.format(function=function, write=write, more=more)
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path):
    with writer(tmp_path / "out") as process:
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    left = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert left == {".out.partial", ".out.lock"}, "the test must find something to remove"
    with whole_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("function", ["whole_folder", "work_folder"])
def test_who_is_refused_removes_what_a_writer_killed_when_it_was_done_left(tmp_path, function):
    with writer(tmp_path / "out", function) as process:
        (tmp_path / "out").write_text("whole")
        with pytest.raises(UserError, match="exists already"):
            refuse_existing(tmp_path / "out")
        assert len(list(tmp_path.iterdir())) == 3, "what belongs to a living process stays"
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="exists already"):
        refuse_existing(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("function", [whole_folder, work_folder, resumable_folder])
def test_a_second_writer_is_refused_and_the_first_one_continues(tmp_path, function):
    made_with = [1] if function is resumable_folder else []
    with writer(tmp_path / "out", function.__name__, more=", 1" if made_with else "") as process:
        before = sorted(path.name for path in tmp_path.iterdir())
        said = rf"another process is writing .*out \(process {process.pid} on "
        with pytest.raises(UserError, match=said), function(tmp_path / "out", *made_with):
            pass
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    with function(tmp_path / "out", *made_with):
        pass


def test_who_replaces_a_folder_waits_for_the_other(tmp_path):
    def replace(number):
        with whole_folder(tmp_path / "out", overwrite=True) as scratch:
            (scratch / "a").write_text(str(number))
            time.sleep(0.05)
            (scratch / "b").write_text(str(number))

    writers = [multiprocessing.get_context("fork").Process(target=replace, args=(n,)) for n in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0] * 4
    assert (tmp_path / "out" / "a").read_text() == (tmp_path / "out" / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_is_written_while_work_for_it_continues(tmp_path):
    with work_folder(tmp_path / "out") as work, whole_folder(tmp_path / "out"):
        assert work.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_scratch_files_of_dead_processes_are_removed(tmp_path):
    with writer(tmp_path / "a.json", "whole_file", "scratch.write_text('half')") as process:
        write_json(tmp_path / "a.json", 1)
        assert len(list(tmp_path.iterdir())) == 2
        process.kill()
        process.wait()
        write_json(tmp_path / "a.json", 2)
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"nan": float("nan"), "inf": [np.float64("inf"), 1.5], "deep": ({"x": -np.inf},)})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None, 1.5],
        "deep": [{"x": None}],
    }


def test_a_file_keeps_its_old_content_when_writing_fails(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.json") as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "b.json")


def test_digest_depends_on_content_and_order(tmp_path):
    for name, text in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(text)
    assert digest([tmp_path / "a"]) == digest([tmp_path / "c"]) != digest([tmp_path / "b"])
    assert digest([tmp_path / "a", tmp_path / "b"]) != digest([tmp_path / "b", tmp_path / "a"])


def test_a_file_of_lines_is_read_and_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"step": 1, "loss": NaN}\n')
    first, second = read_json_lines(tmp_path / "log.jsonl")
    assert first == {"step": 0} and second["loss"] != second["loss"]
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"st')
    with pytest.raises(UserError, match=r"log\.jsonl does not hold valid JSON in every line"):
        read_json_lines(tmp_path / "log.jsonl")
    with pytest.raises(UserError, match=r"none\.jsonl does not exist"):
        read_json_lines(tmp_path / "none.jsonl")
