"""What an agent is made from: the built-in coder, template files, and what the command line lays over them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kode.cli.recipe import CODER, MAX_BYTES, Choices, read_template_file
from kode.core.errors import UsageError
from kode.core.jsontext import parse
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.message import Json
from kode.core.kernel.permission import judge
from kode.core.tools.catalog import default_tools


def verdicts(choices: Choices) -> dict[str, str]:
    template = choices.made()
    return {
        name: judge(template.permission, name, readonly=default_tools.get(name).readonly, input=Json("{}")).verdict
        for name in template.tools
    }


def test_the_coder_reads_freely_and_asks_before_it_changes_anything(tmp_path: Path) -> None:
    found = verdicts(Choices(tmp_path, model="m"))
    readers = {name for name in found if default_tools.get(name).readonly}
    assert {"fs_read", "fs_glob", "fs_grep"} <= readers
    assert {name for name, verdict in found.items() if verdict == "allow"} == readers
    assert {found[name] for name in ("fs_write", "fs_edit", "fs_multi_edit", "bash_run", "bash_kill")} == {"ask"}


def test_modes(tmp_path: Path) -> None:
    assert set(verdicts(Choices(tmp_path, model="m", mode="auto")).values()) == {"allow"}
    assert verdicts(Choices(tmp_path, model="m", mode="readonly"))["bash_run"] == "deny"


def test_all_tools_that_the_coder_names_are_there() -> None:
    assert len(CODER.tools) == 9
    assert set(CODER.tools) <= set(default_tools.names())


@pytest.mark.parametrize(
    ("model", "provider", "base_url", "said"),
    [
        ("openai:a:b", None, None, "openai:a:b"),
        ("a:b", "openai", None, "openai:a:b"),
        ("openai:a", "openai", None, "openai:a"),
        (None, "openai", None, "openai"),
        ("local-model", None, "http://127.0.0.1:1/v1", "openai:local-model"),
        (None, None, "http://127.0.0.1:1/v1", "openai"),
    ],
)
def test_ways_to_name_a_model(
    tmp_path: Path, model: str | None, provider: str | None, base_url: str | None, said: str
) -> None:
    assert Choices(tmp_path, model=model, provider=provider, base_url=base_url).made().model == said


@pytest.mark.parametrize(
    "url", ["http://u:secret@host/v1", "http://host/v1?key=secret", "host:80", "ftp://host", "http://[::1", "http://["]
)
def test_a_base_url_with_a_secret_is_not_stored(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Choices(tmp_path, model="openai:m", base_url=url).made()
    assert "secret" not in str(caught.value)


def test_a_file_is_laid_under_the_options(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        'system_prompt = "Review."\nmodel = "openai:x"\ntools = ["fs_read", "bash_run"]\n'
        "[limits]\nmax_steps_per_run = 50\n[sandbox_options]\nroot = 'sub'\n[metadata]\nteam = 'a'\n"
        '[permission]\nmode = "approval"\nallow = [{tool = "bash_run", arguments = {cmd = "^git log"}}]\n'
    )
    template = Choices(tmp_path, template=file, max_steps=7, base_url="http://h/v1", isolation="bwrap").made()
    assert (template.id, template.model, template.system_prompt) == ("t", "openai:x", "Review.")
    assert template.limits.max_steps_per_run == 7
    assert parse(template.sandbox_options) == {"root": str(tmp_path / "sub"), "isolation": "bwrap"}
    assert parse(template.metadata or "") == {"team": "a", "kode-cli": {"base_url": "http://h/v1"}}
    ask, allow = Json('{"cmd":"rm"}'), Json('{"cmd":"git log"}')
    assert judge(template.permission, "bash_run", readonly=False, input=ask).verdict == "ask"
    assert judge(template.permission, "bash_run", readonly=False, input=allow).verdict == "allow"
    assert judge(template.permission, "fs_read", readonly=True, input=Json("{}")).verdict == "allow"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", 'id = "x"\nsystem_promt = "y"\n', "a.toml:2: there is no field 'system_promt'"),
        ("a.toml", 'id = "x"\n\n[limits]\nmax_steps_per_run = "ten"\n', "a.toml:4: Limits.max_steps_per_run is 'ten'"),
        ("a.toml", "[limits]\nmax_step = 1\n", "a.toml:2: limits has no field 'max_step'"),
        ("a.toml", "tools = 'fs_read'\n", "a.toml:1: tools is 'fs_read'; give a list of names."),
        ("a.toml", "tools = [1]\n", "a.toml:1: AgentTemplate.tools is a list of int; give a list of names"),
        ("a.toml", "[permission]\nask = [{tool='x', arguments={cmd='('}}]\n", "a.toml:2: Rule for 'x': the pattern"),
        ("a.toml", "[permission]\nallow = [{name='x'}]\n", "a.toml:2: permission.allow holds"),
        ("a.toml", "max_output_tokens = true\n", "a.toml:1: max_output_tokens is True; give a whole number."),
        ("a.toml", "id = \n", "a.toml: this is no TOML"),
        ("a.json", '{\n "id": "x",\n "tools": {}\n}', "a.json:3: tools is {}; give a list"),
        ("a.json", '{\n "id": \n}', "a.json:3: this is no JSON"),
        ("a.json", "[]", "a.json: a template is an object"),
        ("a.toml", b"\xff", "it is not UTF-8"),
        ("a.toml", "context = 5\n", "a.toml:1: context is 5; give a table."),
        ("a.toml", "[context]\nmax_token = 5\n", "a.toml:2: context has no field 'max_token'; known are"),
        ("a.toml", "\n[context]\nmax_tokens = 5\n", "a.toml:3: ContextPolicy.max_tokens is 5"),
        ("a.toml", "remind_todos_every = 'never'\n", "a.toml:1: remind_todos_every is 'never'"),
        ("a.toml", "tools = " + "[" * 100_000, "a.toml: this nests too deep"),
        ("a.json", '{"tools": ' + "[" * 100_000, "a.json: this nests too deep"),
        ("a.json", '{"limits": ' + "9" * 5_000 + "}", "a.json: a value cannot be read"),
        ("a.toml", "#" * (MAX_BYTES + 1), "it has more than 1,048,576 bytes"),
    ],
)
def test_a_wrong_file_is_refused_by_line_and_field(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        read_template_file(path)
    assert said in str(caught.value)


def test_the_template_in_the_guide_is_one(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "cli.md").read_text()
    (text,) = re.findall(r"^```toml\n(id = .*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (tmp_path / "reviewer.toml").write_text(text)
    template, asks = read_template_file(tmp_path / "reviewer.toml")
    assert (template.id, asks, template.limits.max_steps_per_run) == ("reviewer", True, 50)
    assert all(f"`{name}`" in guide for name in CODER.tools)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml"):
        read_template_file(tmp_path / "none.toml")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UsageError, match=r"pipe\.toml.*it is no regular file"):
        read_template_file(tmp_path / "pipe.toml")
    with pytest.raises(UsageError, match="it is no regular file"):
        read_template_file(Path("/dev/zero"))


def test_the_context_of_a_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("[context]\nmax_tokens = 5_000\nmethod = 'digest'\n")
    assert read_template_file(tmp_path / "t.toml")[0].context == ContextPolicy(5_000, method="digest")


@pytest.mark.parametrize("root", ["5", "['a']", "'..'", "'/etc'", "'sub/../..'"])
def test_a_root_is_a_folder_below_the_one_to_work_in(tmp_path: Path, root: str) -> None:
    (tmp_path / "t.toml").write_text(f"model = 'openai:x'\n[sandbox_options]\nroot = {root}\n")
    with pytest.raises(UsageError, match=r"sandbox_options\.root is .*; give a folder below"):
        Choices(tmp_path, template=tmp_path / "t.toml").made()
