"""Every Python example of the README runs, against a server in this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmserve_client.testing import LocalServer

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
ADDRESS = '"http://localhost:7860"'


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n", 1)[0] for block in BLOCKS])
def test_an_example_runs_when_its_server_is_in_this_process(block: str, server: LocalServer, capsys: Any) -> None:
    if "llmserve_client.gym" in block:
        pytest.importorskip("gymnasium")
    here = block.replace(f"AsyncLLMServeEnv.from_url({ADDRESS})", "server.async_client()")
    here = here.replace(f"LLMServeEnv.from_url({ADDRESS})", "server.client()").replace(ADDRESS, "server.client()")
    exec(compile(here, "README.md", "exec"), {"server": server, "__name__": "readme"})  # noqa: S102 - the README's own
    if "print(error.field" in block:
        assert capsys.readouterr().out == "batch_cap must be an integer in 1..512\n"
