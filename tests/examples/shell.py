"""Runs documented commands in a copy of the repository, with local addresses in place of the documented ones.

A command that serves starts on a free port, answers `/health` and is stopped. A `nox` command only lists its sessions.
Every other command runs unchanged, with the programs of the environment that runs the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
from tests.examples.endpoint import Endpoint
from tests.examples.pages import ROOT, one_line

from local_server import HOST, Running, free_port

__all__ = ["KEY", "Shell", "copy_of_the_repository", "is_alone"]

KEY: Final = "your_key_here"
"""The key of the documented commands: no endpoint but the tests' own takes it."""
LONGEST_S: Final = 300.0
_ADDRESS: Final = re.compile(r"(?<![\w.])localhost:7860")
_ENDPOINT: Final = "http://localhost:8000/v1"
_PORT: Final = re.compile(r"--port \d+")
_SET: Final = r"(?:\w+=(?:'[^']*'|\S)* )*"
_SERVES: Final = re.compile(_SET + r"(?:uvicorn|llmserve-server|python -m (?:llmserve_server|server\.app))(?: |$)")
_ALONE: Final = re.compile(
    _SET
    + r"(?:nox|openenv|pip|pytest|uvicorn|llmserve-server|python -m (?:llmserve_server|server)\S*|python scripts/\S+)(?: |$)"
)
_TRACE: Final = "".join(["t_s,input,output\n", *(f"{i * 0.5:.1f},{200 + 7 * i},{50 + 3 * i}\n" for i in range(60))])


def is_alone(command: str) -> bool:
    """Whether what the command does depends on nothing that commands before it left, so that once is enough."""
    return _ALONE.match(one_line(command)) is not None


def copy_of_the_repository(folder: Path) -> Path:
    """Copy the tree that a clone would have, and beside it the trace that examples call their own: `requests.csv`."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],  # noqa: S607 - git is wherever the PATH has it
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:  # an unpacked archive
        unwanted = shutil.ignore_patterns(".*", "__pycache__", "artifacts", "build", "dist", "*.egg-info")
        shutil.copytree(ROOT, folder, ignore=unwanted)
    else:
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
    (folder / "requests.csv").write_text(_TRACE, encoding="ascii")
    return folder


@dataclass
class Shell:
    """One block's shell: its folder, and the variables that it has exported so far."""

    folder: Path
    server: Running
    endpoint: Endpoint
    exports: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every command: what would reach beyond the folder or spend a key leads to the tests' own."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LLMSERVE_", "OPENAI_", "PYTEST_"))
        }
        data = {name: os.environ[name] for name in ("LLMSERVE_DATA",) if name in os.environ}
        return (
            kept
            | data
            | {
                "LLMSERVE_REAL_TIME_SCALE": "0.02",  # a window of five seconds in a tenth of one
                "MPLBACKEND": "Agg",
                "NO_PROXY": f"localhost,{HOST}",
                "OPENAI_API_KEY": KEY,  # README.md names the variable in its text, and the specification exports it once
                "OPENAI_BASE_URL": self.endpoint.url,
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
                "XDG_STATE_HOME": str(self.folder / ".state"),
            }
        )

    def run(self, command: str) -> str:
        """Run one command to its end, or to its health where it serves, and return what it printed.

        Raises:
            AssertionError: it failed, or did not do what its kind of command does.
        """
        here = _ADDRESS.sub(self.server.url.removeprefix("http://"), command).replace(_ENDPOINT, self.endpoint.url)
        here = here.replace("OPENAI_API_KEY=...", f"OPENAI_API_KEY={KEY}")
        if one_line(command).startswith("export "):
            self.exports.append(here)
        if _SERVES.match(one_line(command)) and "--help" not in command:
            return self._serve(here)
        if command.startswith("nox"):
            return self._list_sessions(here)
        printed = self._finish(here)
        if command.startswith("curl"):
            for line in printed.splitlines():
                answer = json.loads(line)
                assert "error" not in answer, f"{command}\n{line}"
        if "pip install" in command:
            assert "does not provide the extra" not in printed, printed
        return printed

    def _bash(self, command: str) -> list[str]:
        return ["bash", "-c", "\n".join(["set -eu -o pipefail", *self.exports, command])]

    def _finish(self, command: str) -> str:
        process = subprocess.Popen(
            self._bash(command),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed, complained = process.communicate(timeout=LONGEST_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        assert process.returncode == 0, (
            f"{command}\nexit code {process.returncode}\n{printed[-3000:]}\n{complained[-3000:]}"
        )
        return printed + (complained if "pip install" in command else "")

    def _list_sessions(self, command: str) -> str:
        before, separator, after = command.partition(" -- ")
        printed = self._finish(f"{before} --list{separator}{after}")
        chosen = [line for line in printed.splitlines() if line.startswith("* ")]
        assert chosen, f"{command}: nox would run nothing\n{printed}"
        return "\n".join(chosen)

    def _serve(self, command: str) -> str:
        port = free_port()
        there = _PORT.sub(f"--port {port}", command)
        log = self.folder / f"server-{port}.log"
        streamed = self.endpoint.streamed
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._bash(there),
                cwd=self.folder,
                # Without the page it is up in half the time; the server that all examples share has it.
                env=self.environment | {"LLMSERVE_WEB": "false", "PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Running(f"http://{HOST}:{port}", process, log)
        try:
            _await(server)
            with httpx.Client(base_url=server.url, timeout=60) as visitor:
                visitor.post("/reset", json={"seed": 1}).raise_for_status()
                visitor.post("/step", json={"action": {"batch_cap": 64}}).raise_for_status()
            os.killpg(process.pid, signal.SIGTERM)
            code = process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said = log.read_text(encoding="utf-8", errors="replace")
        # uvicorn's own command leaves as the signal would have it, once it has shut down.
        assert code in {0, -signal.SIGTERM, 128 + signal.SIGTERM}, f"{command}\nexit code {code}\n{said[-3000:]}"
        if "LLMSERVE_MODE=real" in command:
            assert self.endpoint.streamed > streamed, f"{command}: nothing was asked of the endpoint\n{said[-3000:]}"
        return said


def _await(server: Running) -> None:
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    said = server.log.read_text(encoding="utf-8", errors="replace")
    raise AssertionError(f"the server did not come up; it said\n{said[-3000:]}")
