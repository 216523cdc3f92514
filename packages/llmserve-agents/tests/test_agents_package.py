"""What llmserve-agents promises as a distribution: its version, its names, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import llmserve_agents


def test_import_name_reports_the_version_of_the_installed_distribution() -> None:
    """The version in __about__.py and the one that installers see are the same."""
    assert llmserve_agents.__version__ == metadata.version("llmserve-agents")


def test_every_exported_name_exists_and_the_list_is_sorted() -> None:
    for name in llmserve_agents.__all__:
        assert getattr(llmserve_agents, name) is not None
    assert llmserve_agents.__all__ == sorted(llmserve_agents.__all__)
    assert dir(llmserve_agents) == sorted(llmserve_agents.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = llmserve_agents.nonsense


def test_the_baseline_imports_neither_the_openai_client_nor_the_command() -> None:
    """Extras are imported where they are needed, so that the package works without them."""
    program = (
        "import sys, llmserve_agents.evaluation.baseline; print([n for n in ('openai', 'typer') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_in_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    example, tools = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # The suite of the example is the whole one, which other tests run.
    exec(example.split("report = run_suite")[0], {})  # noqa: S102 - the package's own example
    assert 0.0 < float(capsys.readouterr().out) <= 1.0
    exec(tools, {})  # noqa: S102
    assert "on 8 drawn futures the plan earns" in capsys.readouterr().out
