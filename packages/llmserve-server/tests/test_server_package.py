"""llmserve-server as a distribution: one version, and a small public interface that is quick to import."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import llmserve_server


def test_import_name_reports_the_version_of_the_installed_distribution() -> None:
    """The version in __about__.py and the one that installers see are the same."""
    assert llmserve_server.__version__ == metadata.version("llmserve-server")


def test_every_exported_name_is_there() -> None:
    """The application's factory and its settings, beside the version."""
    assert llmserve_server.__all__ == ["Settings", "__version__", "create_app"]
    for name in llmserve_server.__all__:
        assert getattr(llmserve_server, name)
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = llmserve_server.app_factory


def test_importing_the_package_imports_neither_openenv_nor_fastapi() -> None:
    """Both take seconds, and who only wants the version should not pay for them."""
    code = "import sys, llmserve_server; sys.exit(bool({'openenv', 'fastapi', 'gradio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
