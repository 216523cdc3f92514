"""What is built: the wheel and the sdist bring the trained weights along, and so does a wheel made from the sdist."""

from __future__ import annotations

import importlib
import shutil
import tarfile
from contextlib import chdir
from pathlib import Path
from zipfile import ZipFile

import pytest

pytest.importorskip("hatchling", reason="building needs hatchling")

PACKAGE = Path(__file__).resolve().parents[1]
FILES = {
    "README.md": b"all of them",
    "some_task/policy.safetensors": b"\x00\x01",
    "some_task/card.json": b"{}",
    "a/heuristic.json": b"1",
}
JUNK = ("some_task/notes.txt", "some_task/seeds/0/policy.safetensors", "some_task/seeds/0/card.json")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository as far as building this package goes; returns the package's folder."""
    package = tmp_path / "repository" / "packages" / "llmserve-agents"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "tests", "dist", "runs"))
    (package / "tests").mkdir()
    for name, content in (FILES | dict.fromkeys(JUNK, b"not shipped")).items():
        path = tmp_path / "repository" / "weights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return package


def built(kind: str, package: Path, folder: Path) -> Path:
    """Build a wheel, an editable wheel or an sdist as installers do, and return its path."""
    backend = importlib.import_module("hatchling.build")
    folder.mkdir(exist_ok=True)
    with chdir(package):
        return folder / str(getattr(backend, f"build_{kind}")(str(folder)))


def in_wheel(path: Path) -> dict[str, bytes]:
    """The weights in a wheel, by their path below the folder of weights."""
    begin = "llmserve_agents/weights/"
    with ZipFile(path) as wheel:
        return {name.removeprefix(begin): wheel.read(name) for name in wheel.namelist() if name.startswith(begin)}


def unpacked(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [inside] = folder.iterdir()
    return inside


def test_a_wheel_has_the_weights_inside_the_package(tree: Path, tmp_path: Path) -> None:
    assert in_wheel(built("wheel", tree, tmp_path / "out")) == FILES


def test_a_wheel_made_from_the_sdist_has_them_too(tree: Path, tmp_path: Path) -> None:
    source = unpacked(built("sdist", tree, tmp_path / "out"), tmp_path / "source")
    assert {name: (source / "weights" / name).read_bytes() for name in FILES} == FILES
    assert not any((source / "weights" / name).exists() for name in JUNK)
    shutil.rmtree(tree.parents[1])
    assert in_wheel(built("wheel", source, tmp_path / "out")) == FILES


def test_without_weights_everything_is_built_all_the_same(tree: Path, tmp_path: Path) -> None:
    """As in an image, to which the packages are copied alone."""
    shutil.rmtree(tree.parents[1] / "weights")
    assert in_wheel(built("wheel", tree, tmp_path / "out")) == {}
    source = unpacked(built("sdist", tree, tmp_path / "out"), tmp_path / "source")
    assert in_wheel(built("wheel", source, tmp_path / "again")) == {}


def test_a_folder_that_is_not_the_repositorys_is_left_alone(tree: Path, tmp_path: Path) -> None:
    """A package unpacked two folders below somebody's weights takes none of them."""
    elsewhere = tmp_path / "repository" / "others" / "llmserve-agents"
    shutil.copytree(tree, elsewhere)
    assert in_wheel(built("wheel", elsewhere, tmp_path / "out")) == {}


def test_an_editable_install_copies_nothing(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("editables", reason="an editable wheel needs editables")
    wheel = built("editable", tree, tmp_path / "out")
    assert in_wheel(wheel) == {}
    with ZipFile(wheel) as content:
        assert any(name.endswith(".pth") for name in content.namelist())
