"""What is asked of an image from inside: weights, and no torch, whatever its requirements brought along."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import image_contents


def test_an_image_with_weights_and_without_torch_is_as_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_contents, "find_spec", lambda _: None)
    (tmp_path / "weights").mkdir()
    assert image_contents.problems(tmp_path) == []


def test_missing_weights_and_torch_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_contents, "find_spec", lambda name: ModuleSpec(name, None))
    assert [problem.split()[0] for problem in image_contents.problems(tmp_path)] == ["there", "torch"]
