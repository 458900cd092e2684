"""A template that was written down wrong says so where it is made, not deep in a run."""

from __future__ import annotations

from typing import Any

import pytest

from kode.core import AgentTemplate
from kode.core.errors import UsageError

SLIPS: list[tuple[str, Any, str]] = [
    ("permission", "readonly", "PermissionPolicy"),
    ("limits", {"max_steps_per_run": 3}, "Limits"),
    ("context", {"method": "off"}, "ContextPolicy"),
    ("sandbox_options", {"env": {"KEY": "canary"}}, "dump"),
    ("metadata", {"description": "canary"}, "dump"),
    ("output_schema", {"type": "object"}, "schema_of"),
]


@pytest.mark.parametrize(("name", "value", "hint"), SLIPS)
def test_a_field_of_another_type_is_refused_with_what_to_write(name: str, value: Any, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"AgentTemplate\.{name} is of type .*{hint}") as caught:
        AgentTemplate("x", **{name: value})
    assert caught.value.code == "bad_template"
    assert "canary" not in str(caught.value)
