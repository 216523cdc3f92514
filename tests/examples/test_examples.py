"""Each example of the documentation does what it says, or stands in the table of those that cannot be run here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.examples.pages import ROOT, Example, commands, examples, one_line, tables
from tests.examples.shell import KEY, Shell, is_alone
from tests.examples.specification import SPECIFICATION
from websockets.sync.client import connect

from local_server import Running

PAGES = examples()
ALL = PAGES + SPECIFICATION
TABLES = tables()


def _of(*languages: str) -> pytest.MarkDecorator:
    chosen = [example for example in ALL if example.language in languages]
    return pytest.mark.parametrize("example", chosen, ids=[example.name for example in chosen])


def _is_listed(example: Example) -> bool:
    return example.is_shell and all(one_line(command) in TABLES.needs for command in commands(example.text))


SHELL = [example for example in ALL if example.is_shell and not _is_listed(example)]


@pytest.mark.parametrize("example", SHELL, ids=[example.name for example in SHELL])
def test_commands_run_in_the_order_in_which_they_stand(
    example: Example, shell: Shell, proved: set[tuple[str, ...]]
) -> None:
    for command in commands(example.text):
        short = one_line(command)
        if short in TABLES.needs:
            continue
        once = (*shell.exports, short)
        if once not in proved:
            shell.run(TABLES.otherwise.get(short, command))
        if is_alone(command):
            proved.add(once)


@_of("python")
def test_a_python_example_runs_as_a_program(example: Example, server: Running, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(example.text.replace("http://localhost:7860", server.url), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@_of("json")
def test_the_messages_of_an_example_are_understood_by_the_socket(example: Example, server: Running) -> None:
    with connect(server.socket_url, proxy=None) as socket:
        for line in example.text.splitlines():
            socket.send(line)
            if json.loads(line)["type"] != "close":
                answer = json.loads(socket.recv(timeout=60))
                assert answer["type"] != "error", (line, answer)


@_of("http")
def test_every_documented_address_answers(example: Example, server: Running) -> None:
    bodies = {"/reset": {"task_id": "static_workload", "seed": 42}, "/step": {"action": {"batch_cap": 64}}}
    with httpx.Client(base_url=server.url, timeout=300) as visitor:
        for method, path in map(str.split, example.text.splitlines()):
            answer = visitor.request(method, path, json=bodies.get(path), follow_redirects=True)
            assert answer.is_success, (method, path, answer.status_code, answer.text[:1000])
            assert KEY not in answer.text
            if path == "/demo":
                assert answer.url.path.rstrip("/") == "/web"


def test_every_example_is_of_a_kind_that_is_run() -> None:
    """A block without a language, or of one that nothing here runs, is no example that anybody has tried."""
    unknown = [e.name for e in ALL if not e.is_shell and e.language not in {"python", "json", "http"}]
    assert unknown == []


def test_every_entry_of_the_tables_is_a_command_of_the_documentation() -> None:
    known = {one_line(command) for example in ALL if example.is_shell for command in commands(example.text)}
    assert {*TABLES.needs, *TABLES.otherwise} - known == set()


def test_a_program_that_cannot_be_run_here_is_here_unless_the_table_says_otherwise() -> None:
    for command, needed in TABLES.needs.items():
        program, script = command.split()[:2]
        if program == "python" and not script.startswith("-"):
            assert (ROOT / script).exists() != ("not in this repository yet" in needed), command


@pytest.mark.parametrize(
    "command",
    [
        "python -c 'raise SystemExit(3)'",
        "nox -s no-such-session",
        "curl -s localhost:7860/no-such-route",
        "uvicorn no:app",
    ],
)
def test_a_command_that_does_not_work_is_noticed(command: str, shell: Shell) -> None:
    with pytest.raises(AssertionError):
        shell.run(command)


def test_every_page_has_been_read() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/reproduce.md"} <= {example.page for example in PAGES}
    assert {f"packages/{folder.name}/README.md" for folder in (ROOT / "packages").iterdir()} <= {e.page for e in PAGES}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a b  # why\n\n# all of it\nc 'd # e'\n", ["a b", "c 'd # e'"]),
        ("A=1 \\\nb \\\n--c\nd\n", ["A=1 \\\nb \\\n--c", "d"]),
        ('p -c "x\ny"\n$ q && r\n', ['p -c "x\ny"', "q", "r"]),
    ],
    ids=["comments", "continued", "quoted"],
)
def test_a_block_is_split_where_a_shell_would(text: str, found: list[str]) -> None:
    assert commands(text) == found
