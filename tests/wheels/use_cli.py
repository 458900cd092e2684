"""Use the installed wheel `kode-cli` without a source tree or test tools; scripts/check-wheels runs it."""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

kode = Path(sys.executable).with_name("kode")
shown = subprocess.run([kode, "--version"], check=True, capture_output=True, text=True).stdout
assert f"kode-cli {version('kode-cli')}" in shown, shown

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "notes").mkdir()
    Path(folder, "notes", "a.md").write_text("# TODO\nimport this\n")
    run = [kode, "demo", str(Path(folder, "notes")), "--work", str(Path(folder, "work")), "--speed", "10"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
