"""The tools that come with KODE: files and commands in the agent's sandbox."""

from kode.core.tools.builtin.bash import bash_run
from kode.core.tools.builtin.files import fs_read, fs_write
from kode.core.tools.builtin.search import fs_glob, fs_grep

__all__ = ["bash_run", "fs_glob", "fs_grep", "fs_read", "fs_write"]
