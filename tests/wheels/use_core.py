"""Use the installed wheel `kode-core` without a source tree or test tools; scripts/check-wheels runs it."""

from importlib.metadata import entry_points, version
from importlib.resources import files

import kode.core

assert version("kode-core")
assert files(kode.core).joinpath("py.typed").is_file(), "type checkers would ignore the wheel's annotations"
assert "memory" in entry_points(group="kode.store").names

# Extend here: run an agent on the memory store with the scripted provider, from the wheel alone.
