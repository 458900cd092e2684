"""The planner: stands in for a model, offline. It decides from the request's messages alone.

It keeps nothing between two calls, so it goes on after a restart wherever the stored history ends:

    list ─▶ search ─▶ count + watch + read ─▶ read the biggest ─▶ write the report ─▶ done
                        ▲        │ the count was sealed: its outcome is unknown
                        └─ look ◀┘   look at what it left: use it if it is whole, else announce and count again
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kode.cli.demo.count import Counted, command, output_file, read_count
from kode.cli.demo.report import Hits, Survey, write_report
from kode.cli.demo.settings import FILES, LEDGER, REPORT, Settings
from kode.core.kernel.message import ToolResultBlock, ToolUseBlock
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, calls, say, text_of

__all__ = ["Planner"]

MAX_TRIES = 9
_WORDS = {
    ".py": ("def ", "import "),
    ".js": ("function", "import "),
    ".ts": ("function", "import "),
    ".html": ("<script", "<a "),
    ".css": ("color", "margin"),
    ".c": ("#include", "return"),
    ".go": ("func ", "import "),
    ".rs": ("fn ", "use "),
    ".java": ("class ", "import "),
    ".sh": ("if ", "for "),
    ".md": ("# ", "http"),
    ".csv": ("error", ","),
    ".log": ("ERROR", "WARN"),
    ".txt": ("the ", "and "),
}
"""What to search for, by the commonest suffix that is known."""


@dataclass(frozen=True, slots=True)
class Done:
    """A call of the history, with its result."""

    tool: str
    input: dict[str, Any]
    text: str
    value: dict[str, Any] | None
    """The result as JSON; None: a text, such as that of a sealed call."""
    error: bool

    @property
    def unknown(self) -> bool:
        """Whether nobody knows what became of it."""
        return self.error and self.value is None


def history_of(request: ModelRequest) -> list[Done]:
    """Pair each call with its result, which stands in the next message."""
    done: list[Done] = []
    for asked, answered in zip(request.messages, request.messages[1:], strict=False):
        uses = [block for block in asked.blocks if isinstance(block, ToolUseBlock)]
        results = {b.tool_use_id: b for b in answered.blocks if isinstance(b, ToolResultBlock)}
        done += [_done(use, results[use.id]) for use in uses if use.id in results]
    return done


def _done(use: ToolUseBlock, result: ToolResultBlock) -> Done:
    text = text_of(result.content)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return Done(use.name, json.loads(use.input), text, value if isinstance(value, dict) else None, result.is_error)


class Planner:
    """A script for ``ScriptedProvider``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __call__(self, request: ModelRequest) -> Turn:
        """Decide what to do next."""
        return self._paced(self._next(history_of(request)))

    def _next(self, done: list[Done]) -> Turn:
        listed = _last(done, "fs_glob")
        if listed is None:
            everything = {"pattern": "**/*", "cwd": FILES, "dot": True, "limit": 10_000}
            return calls(("fs_glob", everything), text="First, what is there?")
        paths = _paths(listed)
        if _last(done, "fs_grep") is None:
            return self._search(listed, paths)
        counts = [one for one in done if one.tool == "bash_run"]
        if not counts:
            return self._count(1, paths, done)
        counted = _counted(done, counts)
        if counted is None:
            return self._recover(done, counts)
        survey = _survey(done, listed, counts, counted)
        wanted = [name for _, name in counted.biggest if name in set(paths)][:2]
        unread = [name for name in wanted if name not in survey.read]
        if unread:
            reads = [("fs_read", {"path": f"{FILES}/{name}", "limit": 20}) for name in unread]
            return calls(*reads, text=f"{counted.files:,} files counted. A look at the biggest ones.")
        if _last(done, "fs_write") is None:
            text = "Everything is known. The report is ready to be written."
            return calls(("fs_write", {"path": REPORT, "content": write_report(survey)}), text=text)
        return self._end(done, counted)

    def _search(self, listed: Done, paths: Sequence[str]) -> Turn:
        more = "more than " if (listed.value or {}).get("truncated") else ""
        words = ("TODO", *_words(paths))
        searches = [("fs_grep", {"pattern": word, "path": FILES, "max_results": 4_000}) for word in words]
        shown = ", ".join(repr(word) for word in words)
        return calls(*searches, text=f"{more}{len(paths):,} paths. Searching them for {shown}.")

    def _count(self, number: int, paths: Sequence[str], done: Sequence[Done]) -> Turn:
        """Count, and beside it watch the count and read what looks interesting."""
        names = _interesting(paths, done)
        reads = [("fs_read", {"path": f"{FILES}/{name}", "limit": 40}) for name in names]
        text = f"Counting lines, words and bytes (try {number}), watching that"
        text += f", and reading {len(names)} files." if names else "."
        return calls(self._bash(number), self._follow(number), *reads, text=text)

    def _recover(self, done: Sequence[Done], counts: Sequence[Done]) -> Turn:
        """The last count gave no total: find out why before doing anything twice."""
        number, last = len(counts), counts[-1]
        if not last.unknown:
            return say(f"The count failed, so there is no report. It said: {last.text[:300]}")
        out = output_file(number)
        seen = [one for one in done if one.tool == "fs_read" and one.input["path"] == out]
        if not seen:
            text = f"Nobody knows what became of count {number}. First a look at what it left."
            return calls(("fs_read", {"path": out}), ("fs_read", {"path": LEDGER}), text=text)
        if number >= MAX_TRIES:
            return say(f"{number} counts were cut off; giving up without a report.")
        content = "" if seen[-1].error else str((seen[-1].value or {}).get("content", ""))
        left = f"at line {len(content.splitlines())} of {out}" if content else f"before it made {out}"
        text = f"Count {number} was cut off {left}, the only file it changes: try {number + 1} is safe."
        return calls(self._bash(number + 1), self._follow(number + 1), text=text)

    def _bash(self, number: int) -> tuple[str, dict[str, Any]]:
        return "bash_run", {"cmd": command(self.settings, number), "timeout_ms": 600_000}

    def _follow(self, number: int) -> tuple[str, dict[str, Any]]:
        idle = round(max(4 * self.settings.tick_s, 0.3), 3)
        return "file_follow", {"path": output_file(number), "idle_s": idle}

    def _end(self, done: Sequence[Done], counted: Counted) -> Turn:
        written = _last(done, "fs_write")
        if written is None or written.error:
            return say(f"There is no report. {'' if written is None else written.text[:300]}")
        return say(f"{REPORT} is written: {counted.files:,} files, {counted.lines:,} lines, {counted.size:,} bytes.")

    def _paced(self, turn: Turn) -> Turn:
        """Let it come in about thirty pieces."""
        size = sum(len(getattr(block, "text", "") or getattr(block, "input", "")) for block in turn.blocks)
        return replace(turn, chunk=max(8, size // 30), gap_s=self.settings.gap_s)


def _last(done: Sequence[Done], tool: str) -> Done | None:
    return next((one for one in reversed(done) if one.tool == tool), None)


def _paths(listed: Done) -> list[str]:
    """Paths below the files' folder."""
    matches = (listed.value or {}).get("matches", [])
    return [str(path).removeprefix(f"{FILES}/") for path in matches]


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    return "." + name.rpartition(".")[2].lower() if "." in name else ""


def _words(paths: Sequence[str]) -> tuple[str, ...]:
    for suffix, _ in Counter(map(_suffix, paths)).most_common():
        if suffix in _WORDS:
            return _WORDS[suffix]
    return ("import ", "class ")


def _plain(path: str) -> bool:
    """Whether a path can be given back as it was shown."""
    return path.isprintable() and "\ufffd" not in path


def _interesting(paths: Sequence[str], done: Sequence[Done]) -> list[str]:
    """A read-me, and the files with the most hits; at most three."""
    hits: Counter[str] = Counter()
    for one in done:
        if one.tool == "fs_grep" and one.value is not None:
            hits.update(str(match["path"]).removeprefix(f"{FILES}/") for match in one.value.get("matches", []))
    first = [p for p in paths if p.rpartition("/")[2].lower().startswith("readme")]
    ranked = [*first[:1], *(path for path, _ in hits.most_common(3)), *paths[:1]]
    return [path for path in dict.fromkeys(ranked) if _plain(path)][:3]


def _counted(done: Sequence[Done], counts: Sequence[Done]) -> Counted | None:
    """The finished count: from its result, or from the file of one whose result was lost."""
    value = counts[-1].value or {}
    if value.get("code") == 0:
        return read_count(str(value.get("output", "")))
    if not counts[-1].unknown:
        return None
    out = output_file(len(counts))
    seen = [one for one in done if one.tool == "fs_read" and one.input["path"] == out and one.value]
    return read_count(str((seen[-1].value or {}).get("content", ""))) if seen else None


def _survey(done: Sequence[Done], listed: Done, counts: Sequence[Done], counted: Counted) -> Survey:
    hits = []
    for one in done:
        if one.tool != "fs_grep" or one.value is None or "matches" not in one.value:
            continue
        matches = one.value["matches"]
        files = len({match["path"] for match in matches})
        hits.append(Hits(one.input["pattern"], len(matches), files, bool(one.value["truncated"])))
    read: dict[str, str] = {}
    for one in done:
        path = str(one.input.get("path", ""))
        if one.tool == "fs_read" and path.startswith(f"{FILES}/"):
            read[path.removeprefix(f"{FILES}/")] = _what_was_read(one)
    value = listed.value or {}
    return Survey(
        counted,
        int(value.get("count", 0)),
        bool(value.get("truncated")),
        tuple(hits),
        read,
        sum(one.unknown for one in counts),
        len(counts),
    )


def _what_was_read(one: Done) -> str:
    if one.error:
        return str((one.value or {}).get("error", one.text))[:120]
    lines = [line.strip() for line in str((one.value or {}).get("content", "")).splitlines()]
    first = next((line for line in lines if line), "(nothing)")
    return f"{(one.value or {}).get('totalLines', 0):,} lines, beginning: {first[:80]}"
