"""`openenv push` itself takes the staged directory, as far as it goes without a network: all but the upload."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from stage_space import stage

push = pytest.importorskip("openenv.cli.commands.push", reason="OpenEnv is not installed: pip install openenv")
typer_testing = pytest.importorskip("typer.testing")


class Hub:
    """What stands in for Hugging Face's API: it keeps what it is given."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        self.created: dict[str, object] = {}
        self.ignored: list[str] = []

    def create_repo(self, **options: object) -> None:
        self.created = options

    def upload_folder(self, *, folder_path: str, ignore_patterns: list[str], **options: object) -> SimpleNamespace:
        shutil.copytree(folder_path, self.kept)
        self.ignored = ignore_patterns
        return SimpleNamespace()


@pytest.fixture
def pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    staged, hub = tmp_path / "staged", Hub(tmp_path / "kept")
    stage(staged)
    monkeypatch.setattr(push, "whoami", lambda: {"name": "someone"})
    monkeypatch.setattr(push, "HfApi", lambda: hub)
    result = typer_testing.CliRunner().invoke(push.app, [str(staged)])
    assert result.exit_code == 0, result.output
    return hub


def test_push_creates_a_docker_space_named_by_the_manifest(pushed: Hub) -> None:
    assert pushed.created["repo_type"] == "space"
    assert pushed.created["space_sdk"] == "docker"
    assert str(pushed.created["repo_id"]).startswith("someone/")


def test_push_uploads_every_staged_file_but_hidden_ones(pushed: Hub) -> None:
    staged = pushed.kept.parent / "staged"
    expected = {path.relative_to(staged) for path in staged.rglob("*") if path.is_file()}
    found = {path.relative_to(pushed.kept) for path in pushed.kept.rglob("*") if path.is_file()}
    assert expected - found == {Path(".dockerignore")}
    assert found <= expected


def test_push_leaves_the_readme_as_it_is_and_the_dockerfile_valid(pushed: Hub) -> None:
    staged = pushed.kept.parent / "staged"
    assert (pushed.kept / "README.md").read_bytes() == (staged / "README.md").read_bytes()
    before = (staged / "Dockerfile").read_text(encoding="utf-8").splitlines()
    after = (pushed.kept / "Dockerfile").read_text(encoding="utf-8").splitlines()
    added = [line for line in after if line not in before]
    assert added in ([], ["ENV ENABLE_WEB_INTERFACE=true"])
    if added:  # where OpenEnv puts it, before the image's command and not inside another instruction
        assert after[after.index(added[0]) + 1].startswith("CMD ")
