"""The slow command: a shell script that counts every file, a few at a time, and says how far it is.

It changes nothing but its own output file, so running it again does no harm, but it must be said.
Portable `sh`; names may hold anything, so they only travel through `-print0` and `"$@"`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kode.cli.demo.settings import FILES, Settings

__all__ = ["Counted", "command", "output_file", "read_count"]

_SCRIPT = r"""# count all files, try {number}
export LC_ALL=C
n=$(find {files} -type f -exec printf '%.0sx' {{}} + 2>/dev/null | wc -c)
n=$((n))
size=$((n / 20 + 1)) parts=$(((n + n / 20) / (n / 20 + 1)))
[ "$parts" -gt 0 ] || parts=1
echo "begin: $n files" > {out}
if [ "$n" -eq 0 ]; then
  for tick in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep {tick}; echo tick >> {out}; done
fi
[ "$n" -eq 0 ] || find {files} -type f -print0 2>/dev/null | ticks=$((20 / parts)) xargs -0 -n "$size" sh -c '
  i=0; while [ "$i" -lt "$ticks" ]; do sleep {tick}; echo tick >> "$0"; i=$((i + 1)); done
  unread=0; for file; do [ -r "$file" ] || unread=$((unread + 1)); done
  lines=$(cat -- "$@" 2>/dev/null | wc -l)
  bytes=$(cat -- "$@" 2>/dev/null | wc -c)
  words=$(grep -ah "" -- "$@" 2>/dev/null | tr -cs A-Za-z0-9 "\n" | grep -c .)
  echo "part $# $unread" $lines $words $bytes >> "$0"
  wc -c -- "$@" 2>/dev/null | sort -rn | head -n 4 | sed "s/^ */big /" >> "$0"
' {out}
total=$(awk '/^part /{{f+=$2;u+=$3;l+=$4;w+=$5;b+=$6}} END{{printf "total %.0f %.0f %.0f %.0f %.0f",f,u,l,w,b}}' {out})
big=$(grep -a '^big ' {out} | grep -av '^big [0-9]* total$' | sort -k2,2rn | head -n 3)
printf '%s\n%s\nend\n' "$total" "$big" | tee -a {out}
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a finished count says."""

    files: int
    unreadable: int
    lines: int
    words: int
    size: int
    biggest: tuple[tuple[int, str], ...]
    """Bytes and name."""


def output_file(number: int) -> str:
    """Where the run of that number writes; each has its own, so one that was cut off cannot spoil the next."""
    return f"count-{number}.txt"


def command(settings: Settings, number: int) -> str:
    """Write the script of one run."""
    return _SCRIPT.format(number=number, out=output_file(number), files=FILES, tick=f"{settings.tick_s:.4f}")


def read_count(text: str) -> Counted | None:
    """Read what a count printed or wrote; None if it did not come to its end."""
    lines = text.splitlines()
    if "end" not in lines:
        return None
    start = next((at for at, line in enumerate(lines) if line.startswith("total ")), None)
    if start is None:
        return None
    files, unreadable, count, words, size = (int(word) for word in lines[start].split()[1:6])
    biggest = []
    for line in lines[start + 1 :]:
        kind, _, rest = line.partition(" ")
        number, _, name = rest.partition(" ")
        if kind == "big" and number.isdigit():
            biggest.append((int(number), name.removeprefix(f"{FILES}/")))
    return Counted(files, unreadable, count, words, size, tuple(biggest))
