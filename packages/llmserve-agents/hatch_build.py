"""Puts the trained weights into the wheel, as ``llmserve_agents/weights``, and into the sdist, as ``weights``.

It takes the files that agents read: each task's policy with its card, and the tuned thresholds, without the other
training seeds. They are in ``../../weights`` in the repository, and beside this file in an unpacked sdist. If there are
none, the packages are built without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KEPT = ("README.md", "*/policy.safetensors", "*/card.json", "*/heuristic.json")


class WeightsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the files to a distribution. An editable install reads them from the repository instead."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Set the files and their paths in the distribution; `version` is "standard" or "editable"."""
        folder = None if version == "editable" else _weights(Path(self.root))
        if folder is None:
            return
        inside = "llmserve_agents/weights" if self.target_name == "wheel" else "weights"
        for pattern in KEPT:
            for path in sorted(folder.glob(pattern)):
                build_data["force_include"][str(path)] = f"{inside}/{path.relative_to(folder).as_posix()}"


def _weights(root: Path) -> Path | None:
    """Return the folder of all tasks' weights, or None where there is none."""
    unpacked, repository = root / "weights", root.parent.parent / "weights"
    if (root / "PKG-INFO").is_file():  # an unpacked sdist: what stands around it is not ours
        return unpacked if unpacked.is_dir() else None
    ours = (root.parent.parent / "packages" / root.name).resolve() == root.resolve()
    return repository if ours and repository.is_dir() else None
