"""Both commands report what stops them in one line, and return the same exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmserve_sim.commandline import run_command
from llmserve_sim.commandline.outputs import as_options, output_file, output_folder, writing
from llmserve_sim.errors import InvalidInputError

MISSING = ImportError("get the extra")


def _raise(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "it: stopped\n"),
        (ModuleNotFoundError(name="typer"), 2, "it: get the extra\n"),
        (OSError(errno.ENOSPC, "full"), 2, "it: the output cannot be written (full)\n"),
        (BrokenPipeError(errno.EPIPE, "closed"), 2, "it: the output cannot be written (closed)\n"),
        (OSError(errno.ENOSPC, "full", "a.json"), 2, f"it: [Errno {errno.ENOSPC}] full: 'a.json'\n"),
        (TimeoutError("no answer"), 2, "it: no answer\n"),
    ],
)
def test_what_stops_a_command_is_one_line_and_an_exit_code(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("it", _raise(error), MISSING) == code
    assert capsys.readouterr().err == told


def test_a_module_that_is_no_extra_and_a_fault_are_not_hidden() -> None:
    for error in (ModuleNotFoundError(name="llmserve_sim.nowhere"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            run_command("it", _raise(error), MISSING)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("arguments", ["tasks --json", "--help"])
def test_a_closed_pipe_is_one_line_and_exit_code_two(arguments: str) -> None:
    pytest.importorskip("typer", reason="needs the extra cli")
    command = f"{{ sleep 0.2; {sys.executable} -m llmserve_sim {arguments}; echo code $? >&2; }} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)  # noqa: S607 - the system's shell
    assert done.stderr == "llmserve-sim: the output cannot be written (Broken pipe)\ncode 2\n"


def test_an_error_names_the_option_in_its_field_and_its_bound() -> None:
    with (
        pytest.raises(InvalidInputError, match=r"^--limit: more, or --start-s, not start_second"),
        as_options({"limit": "--limit"}, in_bounds={"start_s": "--start-s"}),
    ):
        raise InvalidInputError("limit", "more, or start_s, not start_second")


def test_outputs_are_checked_and_leave_nothing_behind(tmp_path: Path) -> None:
    missing = tmp_path / "new" / "deep"
    with pytest.raises(InvalidInputError, match="--log: must be a file in a folder that exists"):
        output_file(missing / "a.json", "--log", make_folder=False)
    output_folder(missing)
    assert not (tmp_path / "new").exists()
    output_file(missing / "a.json")
    assert list(missing.iterdir()) == []
    with (
        pytest.raises(InvalidInputError, match=r"--log: cannot be written \(full\), got '"),
        writing(missing / "a.json", "--log", make_folder=False),
    ):
        raise OSError(errno.ENOSPC, "full")
