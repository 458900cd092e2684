"""Use the installed wheel `kode-cli` without a source tree or test tools; scripts/check-wheels runs it."""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

kode = Path(sys.executable).with_name("kode")


def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command and expect an exit code."""
    done = subprocess.run([kode, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, (arguments, done.returncode, done.stdout + done.stderr)
    return done


shown = run("--version").stdout
assert f"kode-cli {version('kode-cli')}" in shown, shown
assert "run        Run an agent on a task" in run("--help").stdout

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "notes").mkdir()
    Path(folder, "notes", "a.md").write_text("# TODO\nimport this\n")
    run("demo", str(Path(folder, "notes")), "--work", str(Path(folder, "work")), "--speed", "10")
    # The scripted provider has no script here: the run fails in order, and the agent is there all the same.
    store = f"sqlite:///{Path(folder, 'agents.db')}"
    failed = run("run", "x", "--dir", folder, "--agent", "a", "--model", "scripted", "--store", store, code=1)
    assert "Traceback" not in failed.stderr, failed.stderr
    told = json.loads(run("show", "a", "--store", store, "--json").stdout)
    assert [one["status"] for one in told["runs"]] == ["error"], told
