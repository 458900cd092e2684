"""Use the installed wheel `kode-cli` without a source tree or test tools; scripts/check-wheels runs it."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

kode = Path(sys.executable).with_name("kode")
shown = subprocess.run([kode, "--version"], check=True, capture_output=True, text=True).stdout
assert f"kode-cli {version('kode-cli')}" in shown, shown
