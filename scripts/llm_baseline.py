"""Runs the openai suite against `transformers serve`, a real server from another project, with no key and no network.

The script makes a tiny Llama with random weights (`tiny_llama.py`) and serves it offline. `llmserve baseline --mode
openai` asks it for every window of an episode. Its answers are gibberish, so these must hold: the answers count as
invalid and the configuration in force is repeated; tokens are counted as the server counts them; the transcript holds
every question and answer but not the key; the grade verifies. The script prints what it measured and exits with 1 if
one does not hold.

    python scripts/llm_baseline.py --transformers-python PYTHON_WITH_TORCH_AND_TRANSFORMERS [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from real_mode import HERE, KEY, serving_model

WINDOWS = 120


def main() -> int:
    """Run the suite on one episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers-python", type=Path, required=True, help="its environment serves the model")
    parser.add_argument("--task", default="static_workload")
    parser.add_argument("--out", type=Path, help="folder for the report, the transcript and the server's log")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = (options.out or Path(scratch)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        report, transcript = out / "llm_baseline.json", out / "transcript.jsonl"
        for path in (report, transcript):
            path.unlink(missing_ok=True)
        model = Path(scratch) / "tiny-llama"
        subprocess.run([options.transformers_python, HERE / "tiny_llama.py", "--out", model], check=True)
        with serving_model(options.transformers_python, model, out) as endpoint:
            command = [sys.executable, "-m", "llmserve_agents", "baseline", "--mode", "openai", "--model", str(model)]
            command += ["--task", options.task, "--history", "1", "--max-completion-tokens", "24"]
            command += ["--output", str(report), "--transcript", str(transcript)]
            environment = {**os.environ, "OPENAI_BASE_URL": f"{endpoint}/v1", "OPENAI_API_KEY": KEY}
            subprocess.run(command, env=environment, check=True)
        problems = list(failed(json.loads(report.read_text(encoding="utf-8")), transcript))
        problems += [
            f"the key stands in {path.name}" for path in out.iterdir() if KEY in path.read_text("utf-8", "replace")
        ]
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


def failed(report: dict[str, Any], transcript: Path) -> Iterator[str]:
    """Print the measurements, and yield a sentence for each that is not as it must be."""
    [episode] = report["episodes"]
    usage = episode["usage"]
    for name, value in {**usage, "score": episode["score"], "verified": episode["verified"]}.items():
        print(f"{name:>22}  {value}")
    lines = [json.loads(line) for line in transcript.read_text(encoding="utf-8").splitlines()]
    if (episode["steps"], episode["verified"]) != (WINDOWS, True):
        yield f"{episode['steps']} windows, verified {episode['verified']}: should be {WINDOWS}, true"
    if usage["invalid_actions"] != WINDOWS or usage["failed_requests"]:
        yield f"{usage['invalid_actions']} invalid answers, {usage['failed_requests']} failed: should be {WINDOWS} and 0"
    if usage["requests"] < WINDOWS or usage["uncounted_answers"]:
        yield "every window must have been asked for, and every answer's tokens counted"
    if min(usage["prompt_tokens"], usage["completion_tokens"]) <= 0:
        yield "no tokens were counted"
    if usage["cost_usd"] is not None:
        yield f"a model without a price must not have a cost, and has {usage['cost_usd']}"
    if len(lines) < WINDOWS:
        yield f"the transcript has {len(lines)} lines, fewer than windows"


if __name__ == "__main__":
    raise SystemExit(main())
