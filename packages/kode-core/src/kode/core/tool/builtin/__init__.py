"""The tools that come with KODE: files and commands in the agent's sandbox."""

from kode.core.tool.builtin.bash import bash_run
from kode.core.tool.builtin.files import fs_read, fs_write
from kode.core.tool.builtin.search import fs_glob, fs_grep

__all__ = ["bash_run", "fs_glob", "fs_grep", "fs_read", "fs_write"]
