"""What llmserve-client promises today: it installs, imports, and reports one version."""

from __future__ import annotations

from importlib import metadata

import llmserve_client


def test_import_name_reports_the_version_of_the_installed_distribution() -> None:
    """The version in __about__.py and the one that installers see are the same."""
    assert llmserve_client.__version__ == metadata.version("llmserve-client")


def test_package_exports_nothing_but_its_version() -> None:
    """Until it has something to offer, its public surface is its version."""
    assert llmserve_client.__all__ == ["__version__"]
