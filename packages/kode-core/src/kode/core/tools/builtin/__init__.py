"""The tools that come with KODE: files and commands in the agent's sandbox, sub-agents, and todos."""

from kode.core.tools.builtin.bash import bash_kill, bash_logs, bash_run
from kode.core.tools.builtin.edit import fs_edit, fs_multi_edit
from kode.core.tools.builtin.files import fs_read, fs_write
from kode.core.tools.builtin.search import fs_glob, fs_grep
from kode.core.tools.builtin.task import task_run
from kode.core.tools.builtin.todo import todo_read, todo_write

__all__ = [
    "bash_kill",
    "bash_logs",
    "bash_run",
    "fs_edit",
    "fs_glob",
    "fs_grep",
    "fs_multi_edit",
    "fs_read",
    "fs_write",
    "task_run",
    "todo_read",
    "todo_write",
]
