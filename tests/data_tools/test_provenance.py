"""What made a result, asked from a process of its own."""

import json
import subprocess
import sys

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
