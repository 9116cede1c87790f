"""How commands end, and what they say."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from prepare_helpers import run, write_log

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json
from data_tools.common.launch import launch
from data_tools.common.locks import locked
from data_tools.simulation.settings import World

WAITING_ALONE = """
import os, time
from data_tools.common.cli import run_command
def main():
    print(os.getpid(), flush=True)
    time.sleep(60)
run_command(main)
"""

WAITING = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from data_tools.common.cli import run_command

def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)

def main():
    try:
        if sys.argv[1] == "pool":
            with ProcessPoolExecutor(2) as pool:
                list(pool.map(work, range(2)))
        elif sys.argv[1] == "loaders":
            loaders = [multiprocessing.Process(target=work, args=(n,), daemon=True) for n in range(2)]
            [one.start() for one in loaders]
            time.sleep(60)
        else:
            import duckdb
            print("0\\n0", flush=True)
            while True:
                duckdb.sql("SELECT sum(hash(range)) FROM range(30000000)").fetchall()
    except KeyboardInterrupt:
        print("checkpoint", flush=True)
        raise

if __name__ == "__main__":
    run_command(main)
"""


def alive(process):
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def ignore_interrupts():
    """As shells start a background job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["pool", "loaders", "engine"])
def test_a_signal_ends_a_command_and_its_children_with_one_message(tmp_path, what, number):
    (tmp_path / "waiting.py").write_text(WAITING)
    command = [sys.executable, str(tmp_path / "waiting.py"), what]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=ignore_interrupts, **pipes) as process:
        children = [int(process.stdout.readline()) for _ in range(2)]
        time.sleep(0.3)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    how = "interrupted" if number == signal.SIGINT else "terminated"
    assert err.strip() == f"{how}; run the same command again to continue"
    assert "checkpoint" in out or what == "engine"
    assert not any(alive(child) for child in children if child)


NO_ROOM = "error: the memory is full: "


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("found x"), 1, "error: found x"),
        (OSError(28, "No space left on device", "out"), 1, "error: the disk is full: "),
        (RuntimeError("IO Error: write: No space left on device"), 1, "error: the disk is full: "),
        (FileNotFoundError(2, "No such file", "x"), 1, "error: "),
        (MemoryError(), 1, "error: the memory is full: an array is larger than what is left. Take smaller batches"),
        (RuntimeError("[enforce fail at alloc.cpp:1] DefaultCPUAllocator: can't allocate memory: 5 bytes"), 1, NO_ROOM),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore advice"), 1, NO_ROOM),
        (ValueError("`MASTER_ADDR` env was not set"), 1, "error: WORLD_SIZE=None in the environment asks for several"),
        (KeyboardInterrupt(), 130, "interrupted; "),
    ],
)
def test_what_stops_a_command_is_one_message(error, status, said, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == status
    found = capsys.readouterr().err
    assert found.startswith(said) and found.count("\n") == 1


def test_names_that_a_terminal_cannot_show_are_written_in_ascii(monkeypatch):
    """As where a scheduler runs a job without a locale."""
    shown, said = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", said)

    def main():
        print("made é")
        raise UserError("é is not there")

    with pytest.raises(SystemExit):
        run_command(main)
    shown.flush(), said.flush()
    assert shown.buffer.getvalue() == b"made \\xe9\n" and said.buffer.getvalue() == b"error: \\xe9 is not there\n"


def test_an_argument_that_is_not_utf8_is_a_message(capsys):
    with pytest.raises(SystemExit):
        parse_settings(World, "", ["--photos", "caf\udce9"])
    assert "'caf\\udce9' is not UTF-8; rename what it names" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)


def test_a_full_disk_is_named(capsys):
    def main():
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(SystemExit, match="1"):
        run_command(main)
    assert "the disk is full" in capsys.readouterr().err


@pytest.fixture
def prepare(source):
    def run(*flags, **options):
        command = [sys.executable, "-m", "data_tools.prepare", "--impressions", "log.csv", "--items", "items.csv"]
        command += ["--images", ".", *flags]
        return subprocess.run(command, cwd=source, text=True, capture_output=True, env=environment(), **options)

    return run


def environment():
    return os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))}


def test_quiet_says_errors_alone_and_the_json_log_everything(source, prepare):
    said = prepare("--out", "made", "--quiet", "--json-log", "logs/made.jsonl")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    start, dataset, end = map(json.loads, (source / "logs" / "made.jsonl").read_text().splitlines())
    assert (start["event"], dataset["event"], end["event"]) == ("start", "dataset", "end")
    assert dataset["counts"]["impressions"] == 400 and end["status"] == 0
    again = prepare("--out", "made", "--quiet", "--json-log", "logs/made.jsonl")
    assert again.returncode == 1 and again.stdout == "" and again.stderr.startswith("error: made exists already")
    error, end = map(json.loads, (source / "logs" / "made.jsonl").read_text().splitlines()[-2:])
    assert error["message"] == again.stderr.strip() and end["status"] == 1


def test_a_reader_who_leaves_ends_a_command_silently():
    command = f"{sys.executable} -m data_tools.prepare --help | true; echo ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", command], text=True, capture_output=True, env=environment())
    assert said.stdout.strip() in ("0", "141") and said.stderr == ""


def test_a_killed_prepare_leaves_nothing_once_it_is_run_again(source, prepare):
    write_log(source, [f"u{n % 7},{n % 20:02},{1_600_000_000 + n},{n % 2}" for n in range(20_000)])
    command = [sys.executable, "-m", "data_tools.prepare", "--impressions", "log.csv", "--items", "items.csv"]
    command += ["--images", ".", "--out", "made"]
    with subprocess.Popen(command, cwd=source, env=environment(), stdout=subprocess.DEVNULL) as killed:
        while killed.poll() is None and not any(source.glob(".made.partial-*/images")):
            time.sleep(0.01)
        killed.kill()
    left = {path.name.split("-")[0] for path in source.iterdir() if path.name.startswith(".")}
    assert left == {".made.partial", ".made.work", ".made.lock", ".made.work.lock"}
    again = prepare("--out", "made")
    assert again.returncode == 0, again.stderr
    whole = run(source, out="in/whole").info
    assert "impressions" in again.stdout and "\x1b" not in again.stdout + again.stderr, "colours are for terminals"
    assert [path.name for path in source.iterdir() if path.name.startswith(".")] == []
    assert read_json(source / "made" / "dataset.json") == whole


def test_the_second_of_two_prepares_is_refused(source, prepare):
    with locked(source / "made"):
        second = prepare("--out", "made")
    said = f"error: another process is writing {source / 'made'} (process {os.getpid()} on "
    assert second.returncode == 1 and second.stderr.startswith(said)
    assert [path.name for path in source.iterdir() if path.name.startswith(".")] == []


def test_completion_knows_the_settings_of_a_command(tmp_path):
    pytest.importorskip("argcomplete", reason="completion is an extra: pip install -e '.[completion]'")
    line = "prepare --unclicked"
    program = "import sys; sys.argv = ['prepare']; from data_tools import prepare; prepare.main()"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}
    subprocess.run([sys.executable, "-c", program], env=environment() | asked, check=False)
    found = (tmp_path / "found").read_text().split()
    assert {"--unclicked", "--unclicked_from", "--unclicked_unlike"} <= set(found)


@pytest.mark.slow
def test_a_wheel_runs_from_elsewhere_and_brings_its_configurations(tmp_path):
    root = environment()["PYTHONPATH"]
    shutil.copytree(root, tmp_path / "source", ignore=shutil.ignore_patterns(".git", "results", "*.egg-info", "runs"))
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path / "source"], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", wheel], check=True)
    here = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p.endswith("site-packages"))}
    own = subprocess.run(
        [python, "-c", "import data_tools, sysconfig; print(data_tools.__file__, sysconfig.get_path('purelib'))"],
        cwd=tmp_path,
        env=here,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.split()
    assert own[0].startswith(own[1]), "the wheel's own package runs"
    command = [python, "-m", "pretrain.train", "--config", "configs/pretrain/scl.yaml", "--print_config"]
    said = subprocess.run(command, cwd=tmp_path, env=here, text=True, capture_output=True)
    assert said.returncode == 0 and "name: scl" in said.stdout, said.stderr
    page = [python, "-c", "from data_tools.common.pages import TEMPLATES; print(len(list(TEMPLATES.iterdir())))"]
    assert int(subprocess.run(page, cwd=tmp_path, env=here, text=True, capture_output=True, check=True).stdout) > 2


def test_what_comes_next_can_be_run_in_a_clone_and_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "pretrain").mkdir()
    monkeypatch.chdir(tmp_path)
    assert launch("pretrain.train") == "accelerate launch -m pretrain.train"
    (tmp_path / "pretrain" / "train.py").touch()
    assert launch("pretrain.train") == "accelerate launch pretrain/train.py"


def test_a_configuration_that_is_no_text_is_a_message(tmp_path, capsys):
    (tmp_path / "c.yaml").write_bytes(b"out: \xff")
    with pytest.raises(SystemExit):
        parse_settings(World, "", ["--config", str(tmp_path / "c.yaml")])
    assert "the configuration file is not UTF-8" in capsys.readouterr().err


# In code that no signal interrupts, as torch is where it waits for the other processes.
DEAF = WAITING_ALONE.replace(
    "    time.sleep", "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n    time.sleep"
).replace("import os, time", "import os, signal, time\nfrom data_tools.common import stopping\nstopping.GRACE = 1")


@pytest.mark.parametrize("program", [WAITING_ALONE, DEAF], ids=["asked", "deaf"])
def test_trainers_end_with_the_launcher_that_was_killed(program):
    """A process that a launcher started, and whose launcher is killed, is asked to end, and ends in any case."""
    launch = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    launcher = subprocess.Popen(
        [sys.executable, "-c", launch],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LOCAL_RANK": "0"},
    )
    number = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    for _ in range(100):
        if not psutil.pid_exists(number):
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    raise AssertionError("it ran on")


@pytest.mark.skipif(sys.platform != "linux", reason="it asks Linux what its parent is")
def test_a_trainer_whose_launcher_ended_before_it_began_ends():
    adopted = "os.getppid = lambda: 1\nos.readlink = lambda path: path.split('/')[2]\ndef main"
    program = WAITING_ALONE.replace("def main", adopted)
    own = {**os.environ, "LOCAL_RANK": "0"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=own, timeout=50)
    assert done.returncode and "terminated; run the same command again" in done.stderr
