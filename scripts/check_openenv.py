"""Checks that OpenEnv's own tools accept the environment: validators, runtime graders, clients (`nox -s validate`).

It works on an export of the checkout without symlinks, under the installed OpenEnv: `openenv` 0.10 or `openenv-core`
0.3.0. A check that a release does not have (graders, for example) is left out. The packages must be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ACTION = {"batch_cap": 64, "quantization_tier": "INT8"}
READY_S = 300.0
MESSAGE_S = 300.0
COMPILE = "from llmserve_sim.engine.kernel import compiled; compiled.load()"
GRADERS = ("startup", "reward_well_formed", "observation_schema", "state_contract")
EXECUTION = """  execution:
    kind: openenv_ws
    probe_path: server/probe.json
"""


def main() -> int:
    """Run every check that this OpenEnv has; raise at the first failure, else return 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--lock", action="store_true", help="make a uv.lock in the export (0.3.0's validator wants one)"
    )
    options = parser.parse_args()
    with TemporaryDirectory(prefix="llmserve-validate-") as folder:
        tree = Path(folder) / "llmserve_env"
        export(tree)
        # Here rather than beside the servers, whose answers some of the tools wait for only a few seconds.
        run(["python", "-c", COMPILE], tree)
        if options.lock:
            run(["uv", "lock", "--quiet"], tree)
        run(["openenv", "validate"], tree)
        if has_levels():
            run(["openenv", "validate", "--level", "static"], tree)
        with serving(tree) as url:
            run(["openenv", "validate", "--url", url, "--timeout", "60"], tree)
            clients(url)
            tools(url)
        if has_levels():
            graders(tree)
    print("accepted")
    return 0


def export(tree: Path) -> None:
    """Copy the files that a commit of the present tree would hold."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - found on the PATH
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = ROOT / name
        if source.is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, tree / name)


def run(command: list[str], folder: Path) -> None:
    """Run one command of this environment in `folder`; raises if it fails."""
    print("$", *command, flush=True)
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=folder, check=True)


def has_levels() -> bool:
    """Return whether this OpenEnv has validation levels and graders (0.10 and later)."""
    return importlib.util.find_spec("openenv.validation") is not None


@contextlib.contextmanager
def serving(tree: Path) -> Iterator[str]:
    """Run the composed server on a free port; SIGTERM stops it, with exit code 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"LLMSERVE_STORE_URL": "sqlite://", "LLMSERVE_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "server.app", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=tree, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        wait(url, process)
        yield url
    except BaseException:
        process.kill()
        raise
    process.send_signal(signal.SIGTERM)
    if process.wait(timeout=120) != 0:
        raise SystemExit(f"the server ended with {process.returncode} after SIGTERM")


def wait(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once the server answers."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()  # noqa: S310 - our own URL
            return
        time.sleep(0.2)
    raise SystemExit("the server did not start")


def clients(url: str) -> None:
    """Finish an episode with OpenEnv's generic client, synchronously and asynchronously."""
    from openenv.core import GenericEnvClient

    patience = {"connect_timeout_s": 60.0, "message_timeout_s": MESSAGE_S}

    async def episode() -> int:
        async with GenericEnvClient(base_url=url, **patience) as client:
            result = await client.reset(task_id="static_workload", seed=42)
            steps = 0
            while not result.done:
                result = await client.step(dict(ACTION))
                steps += 1
            state = await client.state()
            if state["step_count"] != steps:
                raise SystemExit(f"state counts {state['step_count']} steps of {steps}")
            return steps

    print("GenericEnvClient, async:", asyncio.run(episode()), "steps")
    with GenericEnvClient(base_url=url, **patience).sync() as client:
        result = client.reset(task_id="static_workload", seed=42)
        steps = 0
        while not result.done:
            result = client.step(dict(ACTION))
            steps += 1
        print("GenericEnvClient, sync:", steps, "steps")


def tools(url: str) -> None:
    """Play windows through tools, with OpenEnv's tool client and with the official MCP client of either major version."""
    from openenv.core.mcp_client import MCPToolClient

    async def openenvs() -> int:
        async with MCPToolClient(base_url=url) as env:
            await env.call_tool("reset", task_id="bursty_workload", seed=42)
            return int((await env.call_tool("advance", windows=3))["windows_run"])

    async def official() -> tuple[str, Any]:
        import mcp

        if not hasattr(mcp, "Client"):
            from mcp.client.streamable_http import streamable_http_client

            async with streamable_http_client(f"{url}/mcp") as streams, mcp.ClientSession(*streams[:2]) as session:
                await session.initialize()
                await session.call_tool("reset", {"seed": 42})
                ran = await session.call_tool("advance", {"windows": 3})
                return "version 1", (ran.structuredContent or {})["windows_run"]
        async with mcp.Client(f"{url}/mcp") as client:
            await client.call_tool("reset", {"seed": 42})
            ran = await client.call_tool("advance", {"windows": 3})
            return "version 2", ran.structured_content["windows_run"]

    print("MCPToolClient:", asyncio.run(openenvs()), "windows")
    print("MCP's client, {}: {} windows".format(*asyncio.run(official())))


def graders(tree: Path) -> None:
    """Run the runtime graders; the server that they measure is a local process, not a container."""
    from openenv.validation import Level, run_validation
    from openenv.validation.types import ProviderCapability

    manifest = tree / "openenv.yaml"
    manifest.write_text(manifest.read_text().replace("validation:\n", "validation:\n" + EXECUTION, 1))
    plan = {
        "plan_schema_version": "1",
        "reset": {"episode_id": "probe", "seed": 42, "options": {"task_id": "bursty_workload"}},
        "actions": [ACTION, {}, {"prefill_decode_split": True}] * 10,
    }
    (tree / "server" / "probe.json").write_text(json.dumps(plan))

    class Subject:
        """A running server."""

        def __init__(self) -> None:
            self._context = serving(tree)
            self.base_url = self._context.__enter__()

        def inspect(self) -> dict[str, Any]:
            return {}

        def logs(self, max_bytes: int = 65536) -> str:
            return ""

        def exec(self, argv: list[str], timeout_s: float) -> Any:
            raise NotImplementedError

        def stop(self) -> None:
            self._context.__exit__(None, None, None)

    class LocalProcess:
        """Starts the export's server as a local process, without a container."""

        name = "local-process"
        capabilities = frozenset({ProviderCapability.IMAGE_BUILD})
        supported_network_modes = frozenset({"public"})

        def build(self, root: Path, execution: object) -> str:
            return "sha256:" + "0" * 64

        def start(self, spec: object) -> Subject:
            return Subject()

    report = run_validation(tree, max_level=Level.RUNTIME, provider=LocalProcess())
    status = {result.check_id: (result.status.value, result.evidence) for result in report.results}
    for name in GRADERS:
        found, evidence = status[f"runtime.{name}"]
        print(f"runtime.{name}: {found}")
        if found != "pass":
            raise SystemExit(f"runtime.{name}: {evidence}")


if __name__ == "__main__":
    sys.exit(main())
