"""Use the installed wheel `kode-store-supabase` without a source tree or test tools; scripts/check-wheels runs it.

There is no project to ask here: what is shown is that the wheel is whole, and that it says what is missing.
"""

import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import anyio

from kode.core import open_store
from kode.core.errors import KodeError
from kode.core.store import Store
from kode.store.supabase import SupabaseStore

assert any("kode-store-supabase" in one and "supabase" in one for one in requires("kode-core") or ()), "no such extra"
assert version("kode-store-supabase")

# The file is in the wheel, and shown with no key and no project.
URL = "supabase://127.0.0.1:9?tls=false&schema=mine"
shown = subprocess.run(
    [Path(sys.executable).with_name("kode"), "store", "schema", "sql", "--all", URL],
    capture_output=True,
    text=True,
    check=True,
).stdout
assert 'CREATE OR REPLACE FUNCTION "mine".rest_apply_v1' in shown, shown
assert "ENABLE ROW LEVEL SECURITY" in shown, shown


async def refused(store: Store) -> str:
    """Open what cannot be opened."""
    try:
        await store.open()
    except KodeError as error:
        return error.code
    return "opened"


assert anyio.run(refused, open_store(URL)) == "no_key"
assert anyio.run(refused, SupabaseStore("http://127.0.0.1:9", "key", retry_s=0.1)) == "cannot_connect"
