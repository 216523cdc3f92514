"""docs/api.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmserve_server.documentation import fill
from llmserve_sim.schema import ACTION_FIELDS, ServeObservation
from llmserve_sim.tasks.registry import list_tasks

ROOT = Path(__file__).parents[4]


def beside(name: str) -> Path:
    """A file of the repository that this package may be in."""
    path = ROOT / name
    if not path.is_file():
        pytest.skip(f"no {name}: not in the repository")
    return path


def test_the_api_page_is_fresh() -> None:
    """`python -m llmserve_server.documentation docs/api.md` would change nothing."""
    page = beside("docs/api.md").read_text(encoding="utf-8")
    assert fill(page) == page


def test_openenv_yaml_describes_the_schema() -> None:
    """Its tables are the code's: tasks, action with ranges and defaults, observation."""
    manifest = yaml.safe_load(beside("openenv.yaml").read_text(encoding="utf-8"))
    assert manifest["app"] == "server.app:app"
    assert [(task["id"], task["difficulty"]) for task in manifest["tasks"]] == [
        (task.id, task.difficulty) for task in list_tasks(extended=False)
    ]
    assert manifest["action"] == {
        name: {"type": row.kind, "range": row.bounds, "default": row.default} for name, row in ACTION_FIELDS.items()
    }
    assert manifest["observation"] == list(ServeObservation.model_fields)
