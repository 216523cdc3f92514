"""Runs every check that a submission must pass and prints one table; the exit code is 0 only if none failed.

Options: `--skip-docker` if no Docker engine runs, `--space-url` once a Space is deployed, `--run-openai-baseline` with
`OPENAI_API_KEY` set. The checks are independent: a failed check says what to do, and the others still run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import endpoints
import local_server

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "llmserve-env"
Result = Literal["passed", "FAILED", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """The result of one check; `detail` says what was found and, after a failure, what to do."""

    result: Result
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    proves: str
    run: Callable[[], Outcome]


def command(arguments: Sequence[str], *, remedy: str, timeout_s: float = 3600) -> Outcome:
    """Run a command at the root; a failure shows its last lines and then `remedy`."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(arguments[0], path=folders)
    if program is None:
        return Outcome("FAILED", f"there is no `{arguments[0]}` on the PATH. {remedy}")
    try:
        done = subprocess.run(
            [program, *arguments[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome("FAILED", f"it did not end within {timeout_s:g} s. {remedy}")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode == 0:
        return Outcome("passed", lines[-1].strip("= ") if lines else "")
    return Outcome("FAILED", "\n".join([*lines[-15:], remedy]))


def tests(selection: Sequence[str]) -> Outcome:
    """Run the test suite, or the part of it that was asked for."""
    remedy = "Install the four packages and the test group (`nox` does both), then read the first failure above."
    return command([sys.executable, "-m", "pytest", "-q", *selection], remedy=remedy)


def manifest() -> Outcome:
    """Let OpenEnv validate the tree."""
    remedy = (
        "See `openenv validate --verbose`. It refuses any symlink below the root (environments that nox or tox make in "
        "the tree, say): run it on a clean checkout."
    )
    return command(["openenv", "validate"], remedy=remedy)


def visited(url: str, remedy: str) -> Outcome:
    """Call every required endpoint of the server at `url`."""
    findings = endpoints.check(url, token=os.environ.get("LLMSERVE_API_TOKEN"))
    problems = [f"{finding.endpoint}: {finding.problem}" for finding in findings if finding.problem]
    if problems:
        return Outcome("FAILED", "\n".join([*problems, remedy]))
    return Outcome("passed", f"{len(findings)} endpoints at {url}")


def local_endpoints() -> Outcome:
    """Start the server here and call its endpoints, then let OpenEnv do the same."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with local_server.running(Path(folder)) as server:
                outcome = visited(
                    server.url, "Start it with `python -m llmserve_server` and ask that endpoint yourself."
                )
                if outcome.result != "passed":
                    return outcome
                remedy = "See the criteria that it lists; `docs/api.md` says what each route promises."
                theirs = command(["openenv", "validate", "--url", server.url], remedy=remedy, timeout_s=300)
        except RuntimeError as error:
            return Outcome("FAILED", f"{error}\nInstall the four packages and see `python -m llmserve_server --help`.")
    return outcome if theirs.result == "passed" else theirs


def baseline(mode: str, runtime: str, model: str | None) -> Outcome:
    """Run the documented baseline command and read its report back."""
    if mode == "openai" and not os.environ.get("OPENAI_API_KEY"):
        return Outcome("FAILED", "OPENAI_API_KEY is not set: export it, or leave out --run-openai-baseline.")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "baseline.json"
        arguments = [sys.executable, "-m", "server.baseline_inference", "--mode", mode, "--output", str(report)]
        arguments += ["--model", model] if model is not None else []
        remedy = f"Run `{' '.join(['python', *arguments[1:5]])}` by hand and read its error."
        if runtime == "in-process":
            outcome = command([*arguments, "--runtime", runtime], remedy=remedy)
        else:
            try:
                with local_server.running(Path(folder)) as server:
                    outcome = command([*arguments, "--runtime", runtime, "--base-url", server.url], remedy=remedy)
            except RuntimeError as error:
                return Outcome("FAILED", str(error))
        if outcome.result != "passed":
            return outcome
        found = json.loads(report.read_text(encoding="utf-8"))
    missing = [task for task in sorted(endpoints.TASKS) if task not in json.dumps(found)]
    if missing:
        return Outcome("FAILED", f"the report does not name {', '.join(missing)}. {remedy}")
    return Outcome("passed", f"{mode}, {runtime}: the report names all three tasks")


def image() -> Outcome:
    """Build the image with Docker."""
    remedy = (
        "Start the Docker engine and read the build's output. Where no engine can run, pass --skip-docker; "
        "`nox -s image` then builds it by other means if this machine has them."
    )
    return command(["docker", "build", "-t", IMAGE, "."], remedy=remedy)


def skipped(why: str) -> Outcome:
    """Leave the check out; the table says why."""
    return Outcome("skipped", why)


def checks(options: argparse.Namespace) -> list[Check]:
    """Return the checks in order; those that the options leave out are skips with a reason."""
    docker = partial(skipped, "--skip-docker") if options.skip_docker else image
    space_remedy = "Read the Space's build and container logs; check its port (7860) and that it is awake and public."
    space = (
        partial(visited, options.space_url.rstrip("/"), space_remedy)
        if options.space_url
        else partial(skipped, "no --space-url")
    )
    openai = (
        partial(baseline, "openai", options.baseline_runtime, options.model)
        if options.run_openai_baseline
        else partial(skipped, "no --run-openai-baseline")
    )
    return [
        Check("tests", "pytest -q passes", partial(tests, options.tests)),
        Check("validate", "openenv validate passes", manifest),
        Check("endpoints", "a server started here answers every required endpoint", local_endpoints),
        Check("baseline", "the deterministic baseline runs", partial(baseline, "deterministic", "in-process", None)),
        Check("docker", "docker build succeeds", docker),
        Check("space", "the deployed Space answers every required endpoint", space),
        Check("openai", "the OpenAI baseline runs", openai),
    ]


def run(selected: Sequence[Check]) -> int:
    """Run the checks and print the table; return 1 if one failed."""
    width = max(len(check.proves) for check in selected)
    failed = []
    for check in selected:
        start = time.perf_counter()
        outcome = check.run()
        seconds = time.perf_counter() - start
        short = outcome.detail if outcome.result != "FAILED" else ""
        print(
            f"{check.name:<10} {outcome.result:<8} {seconds:7.1f} s  {check.proves:<{width}}  {short}".rstrip(),
            flush=True,
        )
        if outcome.result == "FAILED":
            failed.append(check.name)
            print(textwrap.indent(outcome.detail, " " * 11), flush=True)
    print(f"\nnot ready: {', '.join(failed)} failed" if failed else "\nready: nothing failed")
    return int(bool(failed))


def arguments() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--skip-docker", action="store_true", help="leave out the image's build")
    parser.add_argument("--space-url", metavar="URL", help="also visit a deployed Space, https://NAME.hf.space")
    parser.add_argument(
        "--run-openai-baseline", action="store_true", help="also run it; spends OPENAI_API_KEY's credit"
    )
    parser.add_argument("--baseline-runtime", choices=("in-process", "http"), default="in-process")
    parser.add_argument("--model", default="gpt-4.1-mini", help="model of the OpenAI baseline (default: gpt-4.1-mini)")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="run these tests instead of all")
    parser.add_argument("--only", nargs="+", default=[], metavar="CHECK", help="run these checks of the table alone")
    return parser


def main() -> int:
    """Parse, check, print."""
    parser = arguments()
    options = parser.parse_args()
    known = checks(options)
    unknown = set(options.only) - {check.name for check in known}
    if unknown:
        parser.error(f"no check {', '.join(sorted(unknown))}; there are: {', '.join(check.name for check in known)}")
    return run([check for check in known if not options.only or check.name in options.only])


if __name__ == "__main__":
    sys.exit(main())
