"""The program in the wheel's README opens a store."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[3] / "packages/kode-store-postgres/README.md"


async def test_the_program_of_the_readme(server_url: str, schema: str) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    program, replaced = re.subn(r'"postgresql://[^"]*"', repr(f"{server_url}?schema={schema}"), block)
    assert replaced == 1
    named: dict[str, Any] = {}
    body = textwrap.indent(f"{program}\nreturn await store.exists('nobody')\n", "    ")
    body = body.replace("    return", "        return")
    exec(compile(f"async def main():\n{body}", str(README), "exec"), named)
    assert await named["main"]() is False
