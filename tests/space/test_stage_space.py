"""The staged directory is what a Space needs and what `openenv push` takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stage_space import MAX_FILE_BYTES, ROOT, context_sources, look_over, stage


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "staged"
    assert stage(folder).problems == ()
    return folder


def test_the_staged_space_holds_all_that_the_dockerfile_copies(staged: Path) -> None:
    for source in context_sources((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        assert (staged / source).exists(), source


def test_the_staged_space_holds_every_picture_of_its_readme(staged: Path) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (staged / "README.md").read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        assert (staged / picture).is_file(), picture
        assert (staged / picture).stat().st_size < 300_000, picture


def test_the_staged_space_holds_no_test_no_cache_and_no_symlink(staged: Path) -> None:
    names = {part for path in staged.rglob("*") for part in path.relative_to(staged).parts}
    assert not names & {"tests", "__pycache__", ".git", "uv.lock"}
    assert not [path for path in staged.rglob("*") if path.is_symlink()]


def test_a_folder_that_holds_something_is_not_staged_into(staged: Path) -> None:
    with pytest.raises(FileExistsError, match="--replace"):
        stage(staged)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "link").symlink_to("README.md"), "link is a symlink"),
        (lambda folder: (folder / "uv.lock").write_text(""), "uv.lock is a lock file"),
        (lambda folder: (folder / "big.bin").write_bytes(bytes(MAX_FILE_BYTES + 1)), "big.bin has"),
        (lambda folder: (folder / "client.py").unlink(), "client.py is missing"),
        (lambda folder: (folder / "README.md").write_text("# no front matter\n"), "front matter"),
        (lambda folder: (folder / "README.md").write_text("---\ntitle: x\n---\n"), "title is 'x'"),
        (lambda folder: (folder / "openenv.yaml").write_text("name: x\nport: 8000\n"), "port is 8000"),
    ],
    ids=["symlink", "lock", "size", "missing", "no-front-matter", "other-title", "other-port"],
)
def test_what_a_space_would_not_take_is_named(tmp_path: Path, spoil: Callable[[Path], object], says: str) -> None:
    folder = tmp_path / "staged"
    stage(folder)
    spoil(folder)
    assert [problem for problem in look_over(folder).problems if says in problem]
