"""What made a result, asked from a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = "import json\nfrom data_tools.provenance import made_by\nprint(json.dumps(made_by()))\n"


def said(folder, *arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)


def test_the_command_is_what_one_would_type_again(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "job.py").write_text(SAYS)
    script = said(tmp_path, "package/job.py", "--name", "two words")
    module = said(tmp_path, "-m", "package.job", "--name", "two words")
    assert script["command"] == "python package/job.py --name 'two words'"
    assert module["command"] == "python -m package.job --name 'two words'"
    assert said(tmp_path, "package/job.py")["command"] == "python package/job.py"
    assert script.keys() == {"command", "commit", "versions", "machine"} and script["versions"]["torch"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc/self/status to compare with")
def test_peak_memory_remembers_what_was_given_back(tmp_path):
    (tmp_path / "held.py").write_text(
        "import json\nfrom pathlib import Path\nimport numpy as np\nfrom data_tools.provenance import peak_memory\n"
        "held = np.ones(2**27)\ndel held\n"  # 1 GiB
        "lines = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())\n"
        "kib = [int(lines[name].split()[0]) for name in ('VmHWM', 'VmRSS')]\n"
        "print(json.dumps([peak_memory()['process'], *(value / 1024 for value in kib)]))\n"
    )
    peak, told_by_the_system, still_held = said(tmp_path, "held.py")
    assert peak == pytest.approx(told_by_the_system, rel=0.01) and peak > still_held + 900
