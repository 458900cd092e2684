"""`kode store`: what people see of it, and what programs read."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio
import pytest
from tests.cli.conftest import Kode
from tests.stores.copying.agents import fill
from tests.stores.predecessor.folders import SECRET, WHOLE, Old

from kode.core.store import JSONStore, SqliteStore, open_store
from kode.core.store.contract import Scan
from kode.core.testing.conformance.store.author import Author

SOURCE, TARGET = "json:./old", "sqlite:///new.db"


@pytest.fixture
def filled(kode: Kode) -> Kode:
    """A folder with a store of two agents."""

    async def make() -> None:
        async with JSONStore(kode.folder / "old", durability="process") as store:
            await fill(store, "team/one")
            await fill(store, "team/two", messages=5)

    anyio.run(make)
    return kode


def change(kode: Kode, url: str, agent_id: str = "team/one") -> None:
    """Let an agent go on in a store."""

    async def work() -> None:
        async with open_store(url.replace("./", f"{kode.folder}/").replace("///", f"///{kode.folder}/")) as store:
            await store.save_document(agent_id, "notes", "", {"n": 1})

    anyio.run(work)


def test_copy_verify_and_copy_again(filled: Kode) -> None:
    dry = filled("store", "copy", SOURCE, TARGET, "--dry-run")
    assert (dry.code, dry.out) == (0, "2 would be copied\n")
    assert not (filled.folder / "new.db").exists()

    ran = filled("store", "copy", SOURCE, TARGET)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == "2 copied"
    assert "45 messages" in ran.out
    assert filled("store", "verify", SOURCE, TARGET).out.splitlines()[0] == "2 the same in both"
    again = json.loads(filled("store", "copy", SOURCE, TARGET, "--json").out)
    assert (again["counts"], again["ok"], again["problems"]) == ({"same": 2}, True, [])


def test_what_differs_is_said_and_replaced_on_demand(filled: Kode) -> None:
    filled("store", "copy", SOURCE, TARGET)
    change(filled, TARGET)
    ran = filled("store", "copy", SOURCE, TARGET)
    assert ran.code == 1
    assert "team/one  conflict: The target has a newer state of it" in ran.err
    assert "--replace" in ran.out
    assert filled("store", "verify", SOURCE, TARGET).code == 1
    told = json.loads(filled("store", "copy", SOURCE, TARGET, "--replace", "--json").out)
    assert told["counts"] == {"same": 1, "replaced": 1}
    assert filled("store", "verify", SOURCE, TARGET).code == 0


def test_some_agents(filled: Kode) -> None:
    ran = filled("store", "copy", SOURCE, TARGET, "--agent", "team/two", "--agent", "nobody")
    assert (ran.code, ran.out.splitlines()[:2]) == (1, ["1 copied", "1 failed"])
    assert filled("store", "copy", SOURCE, "sqlite:///b.db", "--prefix", "team/o").out.startswith("1 copied")
    assert filled("store", "copy", SOURCE, "sqlite:///c.db", "--since", "2999-01-01").out == "No agents.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("copy", "json:./nowhere", TARGET), "There is no store at 'nowhere'"),
        (("copy", SOURCE, "what:ever"), "No store is known for the scheme 'what'"),
        (("copy", SOURCE, TARGET, "--since", "yesterday"), "'yesterday' is no moment"),
        (("verify", SOURCE, TARGET), "There is no store at 'new.db'"),
        (("prune", "--store", SOURCE), "Say what may go"),
        (("import", "nowhere", TARGET), "holds no agent of the predecessor"),
        (("check", "--store", "json:./nowhere"), "There is no store at 'nowhere'"),
    ],
)
def test_user_errors_are_one_line(filled: Kode, arguments: tuple[str, ...], said: str) -> None:
    ran = filled("store", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("kode: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_a_folder_of_something_else_is_no_store_and_stays_as_it_is(kode: Kode) -> None:
    (kode.folder / "notes").mkdir()
    (kode.folder / "notes/todo.txt").write_text("milk")
    for words in (["agents", "--store", "json:./notes"], ["store", "copy", "json:./notes", TARGET, "--dry-run"]):
        ran = kode(*words)
        assert (ran.code, "There is no store at 'notes'" in ran.err) == (2, True)
    assert [path.name for path in (kode.folder / "notes").iterdir()] == ["todo.txt"]


def test_check(filled: Kode) -> None:
    ran = filled("store", "check", "--store", SOURCE)
    assert ran.code == 0
    assert ran.out.startswith("JSONStore reads and writes · durable against loss of power · read ")
    assert ran.out.splitlines()[-1].startswith("2 of 2 agents are sound; ")

    async def spoil() -> None:
        async with JSONStore(filled.folder / "old") as store:
            (row,) = await store.scan("team/one", Scan("message", "uid-team/one", limit=1))
            await store.apply("team/one", (), [replace(row, body=b"1{")], ())

    anyio.run(spoil)
    ran = filled("store", "check", "--store", SOURCE)
    assert ran.code == 1
    assert "team/one  version 3: 3 problems" in ran.out
    assert "unreadable" in ran.out
    told = json.loads(filled("store", "check", "team/one", "nobody", "--store", SOURCE, "--json").out)
    assert {one["agent_id"] for one in told["problems"]} == {"team/one"}
    assert (told["health"]["healthy"], list(told["errors"])) == (True, ["nobody"])
    assert filled("store", "check", "team/two", "--store", SOURCE).code == 0


def test_a_damaged_file_is_not_said_to_be_empty(kode: Kode) -> None:
    path = kode.folder / "a.db"

    async def make() -> None:
        async with SqliteStore(path) as store:
            for n in range(20):
                await Author(store, f"agent-{n}", f"uid-{n}").create()

    anyio.run(make)
    data = bytearray(path.read_bytes())
    data[2 * 4_096 + 4] ^= 20  # the index of agents: the number of entries on its only page
    path.write_bytes(data)
    for command in (("agents",), ("store", "stats"), ("store", "check")):
        ran = kode(*command, "--store", "sqlite:///a.db")
        assert ran.code == 1
        assert "damaged" in ran.out + ran.err
    assert "page 3)" in ran.out


def test_an_agent_that_cannot_be_listed_is_told(filled: Kode) -> None:
    journal = filled.folder / "old" / "agents" / "team%2fone" / "journal"
    journal.write_bytes(b"\0" + journal.read_bytes()[1:])
    for command in (("agents",), ("store", "stats")):
        ran = filled(*command, "--store", SOURCE)
        assert ran.code == 0
        assert "team%2fone" in ran.err
        assert "damaged" in ran.err
        (told,) = json.loads(filled(*command, "--store", SOURCE, "--json").out)["damaged"]
        assert "team%2fone" in told


def test_a_schema_of_the_store_in_the_environment(kode: Kode) -> None:
    kode.env = {"KODE_STORE": "sqlite:///a.db"}
    assert "CREATE TABLE" in kode("store", "schema", "sql").out
    assert kode("store", "schema", "sql", "memory:").code == 2
    kode.env = {}
    ran = kode("store", "schema", "sql")
    assert (ran.code, "URL" in ran.err) == (2, True)


def test_stats(filled: Kode) -> None:
    lines = filled("store", "stats", "--store", SOURCE).out.splitlines()
    assert lines[0] == "agents        2 (2 READY)"
    assert lines[1] == "messages      45"
    assert "tool bash     2 (2 DENIED)" in lines
    told = json.loads(filled("store", "stats", "team/two", "--store", SOURCE, "--json").out)
    assert (told["agents"], told["messages"], told["runs"]) == (1, 5, {"ok": 1})


def test_prune_shows_first_what_would_go(filled: Kode) -> None:
    options = ("store", "prune", "--older-than", "1d", "--keep-messages", "3", "--store", SOURCE)
    shown = filled(*options)
    assert shown.code == 0
    assert "This would remove from 2 agents: " in shown.out
    assert "--yes" in shown.err
    told = json.loads(filled(*options, "--json").out)
    assert told["dry_run"] is True
    done = json.loads(filled(*options, "--yes", "--json").out)
    assert (done["dry_run"], done["total"]) == (False, told["total"])
    assert done["total"]["runs"] == 2
    assert filled(*options).out == "This would remove from 2 agents: nothing.\n"


def test_schema(filled: Kode) -> None:
    assert filled("store", "schema").out.startswith("records: version 1\nheader ")
    assert filled("store", "schema", "sql", "sqlite:///none.db").out.startswith('CREATE TABLE "header"')
    assert not (filled.folder / "none.db").exists()
    assert "no SQL" in filled("store", "schema", "sql", "memory:").err
    for act in ("status", "upgrade"):
        ran = filled("store", "schema", act, "sqlite:///none.db")
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert "SqliteStore has no schema to look after" in ran.err
    told = json.loads(filled("store", "schema", "--json").out)
    assert told["kinds"]["lease"] == {"holder": "text", "fence": "int", "until": "int", "takes": "int"}


def test_import(kode: Kode) -> None:
    old = Old(kode.folder / "before")
    old.agent("agt-1", WHOLE[:2])
    old.agent("my agent")
    (kode.folder / "prompt.txt").write_text("Be brief.")
    arguments = ("store", "import", "before", TARGET)
    dry = kode(*arguments, "--dry-run")
    assert (dry.code, dry.out.splitlines()[-1]) == (0, "Would import 2 of 2 agents.")
    assert "agt-1  would be copied\n" in dry.out
    assert "  mended   calls without a result sealed: 1\n" in dry.out
    assert not (kode.folder / "new.db").exists()
    ran = kode(*arguments, "--model", "openai:some", "--prompt", "prompt.txt", "--tools", "fs_read, bash_run")
    assert ran.code == 0
    assert "my_agent (was my agent)  copied\n" in ran.out
    assert SECRET not in ran.out
    assert [one["outcome"]["what"] for one in json.loads(kode(*arguments, "--json").out)["agents"]] == ["conflict"] * 2

    shown = json.loads(kode("show", "my_agent", "--store", TARGET, "--json").out)
    assert (shown["template"], shown["messages"], [run["status"] for run in shown["runs"]]) == (
        "coder@1",
        6,
        ["ok", "ok"],
    )
    tree = kode("show", "my_agent", "--store", TARGET).out
    assert "6 messages, of whose making no events are kept; the last ones:" in tree
    assert all(f"{role}: " in tree for role in ("user", "assistant"))


@pytest.mark.integration
def test_conformance_hands_over_to_the_kit(kode: Kode) -> None:
    process = kode.start("store", "conformance", "nothing:")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"No store is known for the scheme 'nothing'" in err


@pytest.mark.parametrize("command", ["check", "stats", "prune"])
@pytest.mark.parametrize("url", ["sqlite:///agents.db", "json:./agents"])
def test_a_store_where_ids_are_wanted_is_said_to_be_one(kode: Kode, command: str, url: str) -> None:
    ran = kode("store", command, url)
    assert ran.code == 2
    assert f"{url!r} is a store and no agent; give it as --store URL." in ran.err
