"""What made a result and what it took, asked from a process of its own."""

import json
import runpy
import subprocess
import sys

import numpy as np

from data_tools.common.provenance import this_command

SAYS = "import json\nfrom data_tools.common.provenance import made_by\nprint(json.dumps(made_by()))\n"


def said(folder, *arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)


def test_the_command_is_what_one_would_type_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "job.py").write_text(SAYS)
    script = said(tmp_path, "package/job.py", "--name", "two words")
    assert script["command"] == "python package/job.py --name 'two words'"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["job.py", "--name", "two words"])
    runpy.run_module("package.job", run_name="__main__", alter_sys=True)  # as python -m does
    assert json.loads(capsys.readouterr().out)["command"] == "python -m package.job --name 'two words'"
    monkeypatch.setattr(sys, "argv", ["job.py"])
    assert this_command("package.job") == "python -m package.job"
    assert script.keys() == {"command", "commit", "versions", "machine"} and script["versions"]["torch"]


def test_peak_memory_remembers_what_was_given_back_and_knows_nothing_of_the_parent(tmp_path):
    tells = "import json, sys\nimport numpy as np\nfrom data_tools.common.system import peak_memory\n"
    tells += "held = np.ones(int(sys.argv[1]))\ndel held\nprint(json.dumps(peak_memory()['process']))\n"
    (tmp_path / "held.py").write_text(tells)
    ours = np.ones(2**25)  # 256 MiB, in this process
    little, much = (said(tmp_path, "held.py", str(count)) for count in (1, 2**24))
    assert ours.sum() and 128 - 30 < much - little < 128 + 30
