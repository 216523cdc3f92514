"""Builds the image and checks that it works: no network, uid 1000, a fast first step, a clean stop.

Uses Docker if an engine runs here. Otherwise it uses a program `verify_image.sh` that builds and runs without an
engine; its path is in `VERIFY_IMAGE`, else `../shared/tools/` beside the clone. Without either it says so and exits
with `NO_ENGINE`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
IMAGE = "llmserve-env"
NO_ENGINE = 75
PORT = 7860
FIRST_STEP_S = 10
#: A uid that owns no file of the image, has no home there, and may not write to the kernel's cache.
FOREIGN_UID = 12345
VISIT = (sys.executable, str(SCRIPTS / "endpoints.py"), "--first-step-within", str(FIRST_STEP_S))


class ImageError(RuntimeError):
    """The image fails a check; the message says which."""


def main() -> int:
    """Find an engine and run the checks; with `--beside`, run those beside a running container."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", action="store_true", help="only say which engine it would be")
    parser.add_argument(
        "--beside", action="store_true", help="check the container at BASE_URL, CONTAINER_PID (internal)"
    )
    parser.add_argument(
        "--pytest", nargs="+", default=[], metavar="PATH", help="also run these tests, with BASE_URL set"
    )
    options = parser.parse_args()
    script = Path(os.environ.get("VERIFY_IMAGE", ROOT.parent / "shared" / "tools" / "verify_image.sh"))
    docker = _quiet("docker", "info")
    if not docker and not (script.is_file() and os.geteuid() == 0 and shutil.which("apt-get")):
        print(
            "no Docker engine runs here, and verify_image.sh (as root, on Debian) is not to be had: nothing is checked"
        )
        return NO_ENGINE
    try:
        if options.engine:
            print("Docker" if docker else script.name)
        elif options.beside:
            beside(options.pytest)
        elif docker:
            with_docker(options.pytest)
        else:
            more = ["--pytest", *options.pytest] if options.pytest else []
            mine = [sys.executable, __file__, "--beside", *more]
            _run("bash", str(script), "-c", str(ROOT), "-n", "none", "-p", str(PORT), "--", *mine)
    except (ImageError, subprocess.CalledProcessError) as error:
        print(f"FAILED: {error}")
        return 1
    return 0


def with_docker(tests: Sequence[str]) -> None:
    """Build with Docker; run the image once without a network, and once with a port for `tests`."""
    _run("docker", "build", "-t", IMAGE, str(ROOT))
    _run("docker", "history", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE)
    name = f"{IMAGE}-check-{os.getpid()}"
    _run("docker", "run", "--detach", "--name", name, "--network", "none", "--read-only", IMAGE)
    try:
        _healthy(name)
        inside = ("docker", "exec", "--interactive", name, "python", "-")
        visit = (*inside, f"http://127.0.0.1:{PORT}", "--first-step-within", str(FIRST_STEP_S))
        _run(*visit, script=SCRIPTS / "endpoints.py")
        _run(*inside, script=SCRIPTS / "image_contents.py")
        foreign = ("docker", "exec", "--interactive", "--user", str(FOREIGN_UID), name, "entrypoint", "python", "-")
        _run(*foreign, "--check", script=SCRIPTS / "precompile.py")
        uid = _said("docker", "exec", name, "id", "-u")
        if uid != "1000":
            raise ImageError(f"it runs as uid {uid}, not 1000")
        _run("docker", "stop", "--time", "30", name)
        code = _said("docker", "inspect", "--format", "{{.State.ExitCode}}", name)
        if code != "0":
            raise ImageError(f"it ended with exit code {code} on SIGTERM, not 0")
    finally:
        _quiet("docker", "rm", "--force", name)
    if tests:
        _run("docker", "run", "--detach", "--name", name, "--publish", f"127.0.0.1::{PORT}", IMAGE)
        try:
            _healthy(name)
            address = _said("docker", "port", name, str(PORT)).splitlines()[0]
            _run(sys.executable, "-m", "pytest", *tests, env={"BASE_URL": f"http://{address}"})
        finally:
            _quiet("docker", "rm", "--force", name)


def beside(tests: Sequence[str]) -> None:
    """Check the container that `verify_image.sh` runs, from inside its network."""
    _run(*VISIT)
    pid = os.environ["CONTAINER_PID"]
    variables = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").rstrip("\0").split("\0")
    kept = [variable for variable in variables if not variable.startswith("HOME=")]
    enter = ("nsenter", "--target", pid, "--mount", f"--setuid={FOREIGN_UID}", f"--setgid={FOREIGN_UID}")
    inside = (*enter, "--wdns=/app", "env", "-i", *kept, "HOME=/nonexistent", "entrypoint", "python", "-")
    _run(*inside, script=SCRIPTS / "image_contents.py")
    _run(*inside, "--check", script=SCRIPTS / "precompile.py")
    if tests:
        _run(sys.executable, "-m", "pytest", *tests)


def _healthy(name: str) -> None:
    """Wait until Docker's own HEALTHCHECK reports that the container is healthy."""
    for _ in range(120):
        health = _said("docker", "inspect", "--format", "{{.State.Health.Status}}", name)
        if health == "healthy":
            return
        if health == "unhealthy":
            break
        time.sleep(1)
    raise ImageError(
        f"its HEALTHCHECK says {health}; its log ends with:\n{_said('docker', 'logs', '--tail', '20', name)}"
    )


def _run(*command: str, script: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command, with the script (if given) as its standard input; raises if it fails."""
    print("+", " ".join(command), flush=True)
    text = script.read_bytes() if script else None
    subprocess.run(command, input=text, cwd=ROOT, env=os.environ | (env or {}), check=True)


def _said(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.strip()


def _quiet(*command: str) -> bool:
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
