"""The image's entry point becomes the command, and names a folder to write to where there is no /tmp."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).resolve().parents[2] / "scripts" / "entrypoint.sh"
SHELL = shutil.which("sh") or ""
pytestmark = pytest.mark.skipif(not SHELL, reason="there is no POSIX shell here")


def _run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"]} | variables
    return subprocess.run(
        [SHELL, str(ENTRYPOINT), *command], env=environment, capture_output=True, text=True, check=False
    )


def test_the_command_takes_its_place_with_its_arguments_and_its_exit_code(tmp_path: Path) -> None:
    done = _run("sh", "-c", 'echo "$0 $1"; exit 3', "a b", "c", NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.stdout, done.returncode) == ("a b c\n", 3)


def test_a_cache_that_can_be_written_to_stays_where_it_is(tmp_path: Path) -> None:
    done = _run("sh", "-c", "echo $NUMBA_CACHE_DIR $TMPDIR", NUMBA_CACHE_DIR=str(tmp_path), TMPDIR=str(tmp_path))
    assert done.stdout.split() == [str(tmp_path), str(tmp_path)]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_to_is_copied_to_where_it_can(tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    cache.mkdir()
    temporary.mkdir()
    (cache / "entry.nbi").write_text("machine code")
    cache.chmod(0o555)
    done = _run("sh", "-c", "echo $NUMBA_CACHE_DIR", NUMBA_CACHE_DIR=str(cache), TMPDIR=str(temporary))
    assert (Path(done.stdout.strip()) / "entry.nbi").read_text() == "machine code"
    assert Path(done.stdout.strip()).parent == temporary


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no /dev/shm here")  # noqa: S108
def test_without_a_temporary_folder_the_shared_memory_is_one(tmp_path: Path) -> None:
    done = _run("sh", "-c", "echo $TMPDIR", NUMBA_CACHE_DIR=str(tmp_path), TMPDIR=str(tmp_path / "absent"))
    assert done.stdout.strip() == "/dev/shm"  # noqa: S108
