import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.common.cli import UserError, run_command
from data_tools.common.files import digest, read_json, read_json_lines, whole_file, whole_folder, write_json
from data_tools.dataset.schema import open_dataset
from data_tools.sharding.files import read_index
from data_tools.tables.table import read_table


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


def test_a_killed_writer_leaves_nothing_at_the_place(tmp_path):
    program = (
        "import sys, time\n"
        "from data_tools.common.files import whole_folder\n"
        "with whole_folder(sys.argv[1]) as scratch:\n"
        "    (scratch / 'half').write_text('x'); print('half', flush=True); time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "out")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("found x"), 1), (OSError(28, "No space left on device", "out"), 1), (KeyboardInterrupt(), 130)],
)
def test_a_users_mistake_is_one_message(error, status, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == status
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_of_lines_is_read_and_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"step": 1, "loss": NaN}\n')
    first, second = read_json_lines(tmp_path / "log.jsonl")
    assert first == {"step": 0} and second["loss"] != second["loss"]
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"st')
    with pytest.raises(UserError, match=r"log\.jsonl does not hold valid JSON in every line"):
        read_json_lines(tmp_path / "log.jsonl")
    with pytest.raises(UserError, match=r"none\.jsonl does not exist"):
        read_json_lines(tmp_path / "none.jsonl")


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "https://host/x", Path("s3://bucket/x")])
@pytest.mark.parametrize("use", [read_index, open_dataset, read_table, lambda url: whole_folder(url).__enter__()])
def test_a_url_is_not_taken_for_a_relative_folder(url, use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is a URL .*only local folders"):
        use(url)
    assert not list(tmp_path.iterdir())
