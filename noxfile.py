"""Every check of this repository as a session that proves one thing; `nox -l` lists them.

`pip install uv nox && nox` runs the default set on the Python that runs nox. Name the other sessions to run them:
those that take many minutes (`examples`, `hostile`, `image`, `attacks`, `crash`, `fuzz`, `real`, `vllm`), and those that
need an idle machine (`bench`, `load`). Sessions install the packages from their own folders, never editable, so that they test what a user
would install.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent.resolve()
PACKAGES = ("sim", "client", "agents", "server")
TESTED_WITH = {"client": "[gym]", "sim": "[cli,fast,files,gym]", "agents": "[cli,fast,llm,plot,tune]"}
SOURCES = [ROOT / "packages" / f"llmserve-{name}" / "src" for name in PACKAGES]
PYTHONS = ("3.11", "3.12", "3.13")
VLLMS = ("0.12.0", "0.19.1", "0.33.0")
OPENENVS = ("openenv>=0.10", "openenv-core==0.3.0")
DATA = Path(os.environ.get("LLMSERVE_DATA", ROOT.parent / "shared" / "data"))
ARTIFACTS = Path(os.environ.get("LLMSERVE_ARTIFACTS", ROOT / "artifacts"))
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")["dependency-groups"]


def _cache_folder() -> Path:
    """Return the folder of this clone's environments.

    It is outside the tree, because `openenv validate` refuses a tree with symlinks.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "llmserve-nox" / hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]


def _show_pyenv_interpreters() -> None:
    """Let pyenv's shims find every interpreter that pyenv has.

    Without PYENV_VERSION the shims hide all but one.
    """
    if shutil.which("pyenv") is None or "PYENV_VERSION" in os.environ:
        return
    listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False)
    mine = platform.python_version()
    found = [name for name in listed.stdout.split() if name.startswith(tuple(f"{python}." for python in PYTHONS))]
    if found:
        os.environ["PYENV_VERSION"] = ":".join(sorted(found, key=lambda name: (name != mine, name)))


_show_pyenv_interpreters()
# Many sessions start servers and commands by the dozen. Where bytecode may not be kept, each would compile every library.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv|venv"
nox.options.envdir = str(_cache_folder())
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = False


def _requirements(package: str, extras: str = "") -> list[str]:
    """Return a package's requirements from its pyproject.toml, with those of the extras: ``[cli,fast]``."""
    project = nox.project.load_toml(ROOT / "packages" / f"llmserve-{package}" / "pyproject.toml")["project"]
    optional = project.get("optional-dependencies", {})
    names = filter(None, extras.strip("[]").split(","))
    return [*project["dependencies"], *(wanted for name in names for wanted in optional[name])]


def _split(package: str, extras: str = "") -> tuple[dict[str, str], list[str]]:
    """Return a package and the siblings it needs, each with its extras, and the requirements from elsewhere."""
    siblings, foreign = {package: extras}, []
    for wanted in _requirements(package, extras):
        found = re.fullmatch(r"llmserve-(\w+)(\[.*\])?", wanted)
        if found is None:
            foreign.append(wanted)
            continue
        below, theirs = _split(found[1], found[2] or "")
        siblings |= {name: below[name] or siblings.get(name, "") for name in below}
        foreign += theirs
    return siblings, foreign


def _install(session: nox.Session, package: str, extras: str = "") -> None:
    """Install one package and its siblings from their folders; a reused environment gets the present source."""
    siblings, _ = _split(package, extras)
    if session.venv_backend == "uv":
        session.install(*_reinstalled(session, siblings))
        return
    # From the lowest package up: pip accepts a folder as a sibling's requirement only after it is installed.
    for name in PACKAGES:
        if name in siblings:
            session.install(*_reinstalled(session, {name: siblings[name]}))
    session.install("--force-reinstall", "--no-deps", *_reinstalled(session, siblings))


def _reinstalled(session: nox.Session, siblings: dict[str, str]) -> list[str]:
    """Return the arguments that install the siblings from their folders, in their present state."""
    anew = [option for name in siblings for option in ("--reinstall-package", f"llmserve-{name}")]
    folders = [f"./packages/llmserve-{name}{extras}" for name, extras in siblings.items()]
    return [*(anew if session.venv_backend == "uv" else ["--upgrade"]), *folders]


def _compose(session: nox.Session) -> None:
    """Install the four packages together, as the image does; a reused environment gets the present source."""
    folders = [f"./packages/llmserve-{name}" for name in ("sim[cli,fast,gym]", "client", "agents[cli,llm]", "server")]
    if session.venv_backend == "uv":
        again = [argument for name in PACKAGES for argument in ("--reinstall-package", f"llmserve-{name}")]
        session.install(*again, *folders)
    else:
        session.install(*folders)
        session.install("--force-reinstall", "--no-deps", *folders)


def _environment() -> dict[str, str]:
    """Return the environment of the packages' tests: the folder of recorded data (if any) and a plotting backend."""
    return {"MPLBACKEND": "Agg"} | ({"LLMSERVE_DATA": str(DATA)} if DATA.is_dir() else {})


def _pytest(session: nox.Session, *arguments: str, package: str = "sim") -> None:
    with session.chdir(ROOT / "packages" / f"llmserve-{package}"):
        session.run("pytest", *(session.posargs or arguments), env=_environment())


TWO_AT_ONCE = ("-n", "2", "--dist", "loadfile")
"""Options for pytest: two processes, each file of tests in one of them."""


@nox.session(tags=["tests"])
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """The package passes its own tests with only itself and its extras installed."""
    _install(session, package, TESTED_WITH.get(package, ""))
    session.install(*GROUPS["test"], *GROUPS.get(package, []))
    _pytest(session, "tests", *TWO_AT_ONCE, package=package)


@nox.session(python=PYTHONS, tags=["tests"])
def determinism(session: nox.Session) -> None:
    """Short episodes have the committed digests on this Python, without numba and with it."""
    _install(session, "sim")
    session.install(*GROUPS["test"])
    if session.venv_backend == "uv":
        session.run("uv", "pip", "uninstall", "numba", "llvmlite", external=True, silent=True)
    else:
        session.run("pip", "uninstall", "--yes", "numba", "llvmlite", silent=True)
    _pytest(session, "tests/digests")
    _install(session, "sim", "[fast]")
    _pytest(session, "tests/digests")


@nox.session(python="3.11", tags=["tests"])
def lowest(session: nox.Session) -> None:
    """The simulator passes its tests with the lowest versions that its pyproject.toml admits."""
    if session.venv_backend != "uv":
        session.skip("only uv resolves to lowest versions: pip install uv")
    session.install(
        "--resolution", "lowest-direct", "--reinstall-package", "llmserve-sim", "./packages/llmserve-sim[cli,fast,gym]"
    )
    session.install(*GROUPS["test"])
    # Old releases of other packages may use what is deprecated by now.
    _pytest(session, "tests", "-W", "default", *TWO_AT_ONCE)


@nox.session(tags=["light"])
@nox.parametrize("package", ["sim", "client"], ids=["sim", "client"])
def light(session: nox.Session, package: str) -> None:
    """llmserve-sim brings at most 6 distributions, llmserve-client at most 15; imports are fast and load no extra."""
    _install(session, package)
    session.run("python", str(ROOT / "scripts" / "check_light.py"), package)


@nox.session(tags=["tests"])
def contract(session: nox.Session) -> None:
    """One episode gives the same bytes and grade in process and through every client; refusals lose nothing."""
    _compose(session)
    session.install(*GROUPS["test"])
    session.run("pytest", *(session.posargs or ["tests/contract", *TWO_AT_ONCE]), env=_environment())


@nox.session(tags=["tests"], default=False)
def hostile(session: nox.Session) -> None:
    """10,000 random specifications end in a typed error or a run that ends; give another count after `--`."""
    _install(session, "sim", "[fast]")
    script = ROOT / "packages" / "llmserve-sim" / "tests" / "specifications" / "hostile.py"
    session.run("python", str(script), *(session.posargs or ["10000"]))


@nox.session(tags=["tests"], default=False)
def examples(session: nox.Session) -> None:
    """Every command and example of the pages runs, or docs/reproduce.md says what it needs."""
    _compose(session)
    # Some of the commands run pip, nox and hatchling; uv makes environments without pip.
    session.install(*GROUPS["test"], "hatchling", "nox>=2024.10.9", "pip")
    session.run("pytest", *(session.posargs or ["tests/examples"]), env=_environment())


@nox.session(tags=["tests"])
def browser(session: nox.Session) -> None:
    """A whole visit to the page works in Chromium at two widths, without requests to other hosts; takes pictures."""
    if not _has_chromium(session):
        session.skip("there is no Chromium, and no right to install one: apt-get install chromium")
    _compose(session)
    session.install(*GROUPS["test"], *GROUPS["browser"])
    session.run(
        "pytest", *(session.posargs or ["tests/browser"]), env=_environment() | {"LLMSERVE_ARTIFACTS": str(ARTIFACTS)}
    )


def _has_chromium(session: nox.Session) -> bool:
    """Return whether Chromium is there; install it from Debian's packages if that is allowed."""
    if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        return True
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    session.run("apt-get", "update", "-qq", external=True, success_codes=[0, 100])
    session.run("apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium", external=True)
    return True


@nox.session(tags=["style"])
def lint(session: nox.Session) -> None:
    """Ruff finds nothing to report in the code or its format."""
    session.install(*GROUPS["lint"])
    session.run("ruff", "check", *(session.posargs or ["."]))
    session.run("ruff", "format", "--check", ".")


@nox.session(tags=["style"])
def types(session: nox.Session) -> None:
    """Every package, script, recipe and session is fully typed: mypy --strict."""
    _compose(session)
    session.install(*GROUPS["types"], *GROUPS["test"], "nox")
    session.run("mypy", *(session.posargs or [*map(str, SOURCES), "noxfile.py", "scripts", "benchmarks", "recipes"]))


@nox.session(tags=["style"])
def imports(session: nox.Session) -> None:
    """Imports go down the layers only; extras are imported only where they are needed."""
    session.install(*GROUPS["imports"])
    session.run("lint-imports", env={"PYTHONPATH": os.pathsep.join(map(str, SOURCES))})


@nox.session(tags=["style"])
def docs(session: nox.Session) -> None:
    """Links of the repository's pages resolve, sessions that they name exist, generated tables are fresh."""
    _install(session, "sim")
    session.run("python", str(ROOT / "scripts" / "check_docs.py"))


@nox.session(default=False)
def serve(session: nox.Session) -> None:
    """Serve the composed environment on $PORT (7860) until Ctrl-C: `nox -s serve -- --port 8000`."""
    _install(session, "server")
    session.run("python", "-m", "server.app", *session.posargs)


@nox.session(tags=["evidence"])
@nox.parametrize("openenv", OPENENVS, ids=("openenv", "openenv-core"))
def validate(session: nox.Session, openenv: str) -> None:
    """OpenEnv's validators, graders and clients accept the environment, under its present and its old name."""
    options = []
    if openenv.startswith("openenv-core"):
        # Both distributions own the import name, so OpenEnv's new one must not come as a requirement of the packages.
        siblings, foreign = _split("server")
        session.install(openenv, "uv", *(wanted for wanted in foreign if not wanted.startswith("openenv")))
        session.install("--no-deps", *_reinstalled(session, siblings))
        options = ["--lock"]
    else:
        _install(session, "server")
    session.run("python", "scripts/check_openenv.py", *options, *session.posargs, env={"LLMSERVE_WEB": "false"})


@nox.session(tags=["evidence"])
def fidelity(session: nox.Session) -> None:
    """The simulator reproduces the measured runs within the stated errors (needs the recorded data)."""
    if not DATA.is_dir():
        session.skip(f"no recorded data at {DATA}: set LLMSERVE_DATA to the folder that holds it")
    _install(session, "sim")
    session.run("python", "-m", "llmserve_sim.fidelity", *session.posargs, env=_environment())


@nox.session(python="3.11", venv_backend="venv", tags=["evidence"], default=False)
def vllm(session: nox.Session) -> None:
    """The reference engine schedules as vLLM's own scheduler: `nox -s vllm -- --workloads 2000 --version 0.19.1`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="append")
    arguments, others = parser.parse_known_args(session.posargs)
    try:
        # pip, and torch first: asked for by another package, torch would come as a CUDA build of several gigabytes.
        session.install("torch==2.13.0")
        session.install(*GROUPS["vllm"])
        trees = {version: _vllm_sources(session, version) for version in arguments.version or VLLMS}
    except nox.command.CommandFailed:
        session.skip("vLLM or what its scheduler imports cannot be installed here: see pip's message above")
    _install(session, "sim", "[cli]")
    for version, tree in trees.items():
        path = {"PYTHONPATH": os.pathsep.join([str(tree), str(ROOT)])}
        session.run("python", "-m", "tests.vllm", "--version", version, *others, env=path)


def _vllm_sources(session: nox.Session, version: str) -> Path:
    """Unpack the .py files of a vLLM release, once, and return their folder: no compiled part and no CUDA."""
    folder = Path(session.virtualenv.location).with_name(f"vllm-{version}")
    if not (folder / "complete").exists():
        wheels = session.create_tmp()
        session.run("pip", "download", "--quiet", "--no-deps", "--dest", wheels, f"vllm=={version}")
        (wheel,) = Path(wheels).glob(f"vllm-{version}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])
        wheel.unlink()
        (folder / "complete").touch()
    return folder


@nox.session(tags=["evidence"], default=False)
def bench(session: nox.Session) -> None:
    """The speed ratios hold, each measured side by side in one run; writes a JSON and a PNG."""
    _install(session, "sim", "[cli,fast]")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    vidur = _vidur(session)
    arguments = ["--out", str(ARTIFACTS), *(["--vidur-python", vidur] if vidur else []), *session.posargs]
    session.run("python", "benchmarks/run.py", *arguments, env=_environment())


def _vidur(session: nox.Session) -> str | None:
    """Make an environment with Vidur, once, and return its interpreter.

    Returns None if Vidur has no release for this Python.
    """
    if sys.version_info >= (3, 13):
        session.warn("Vidur is not measured: vidur 0.0.26 is published for Python 3.10 to 3.12")
        return None
    folder = Path(session.virtualenv.location).with_name("vidur-0.0.26")
    python = str(folder / "bin" / "python")
    if not (folder / "complete").exists():
        session.run("python", "-m", "venv", "--clear", str(folder))
        installer = ["uv", "pip", "install", "--python", python]
        if session.venv_backend != "uv":
            installer = [python, "-m", "pip", "install"]
        session.run(*installer, "--quiet", "vidur==0.0.26", external=True)
        (folder / "complete").touch()
    return python


@nox.session(tags=["evidence"], default=False)
def benchmark(session: nox.Session) -> None:
    """Make and judge every number and picture about agents; `-- --quick` checks the committed ones instead."""
    _compose(session)
    session.install("matplotlib")
    session.run("python", "-m", "benchmarks.agents", *session.posargs, env=_service_environment())


def _learner(session: nox.Session, extras: str = "[cli,fast,llm,plot,train]") -> None:
    """Install the agents with what training needs; pip, and torch first, as in `conformance`."""
    session.install("torch==2.13.0")
    _install(session, "agents", extras)


@nox.session(python="3.11", venv_backend="venv", tags=["tests"])
def learning(session: nox.Session) -> None:
    """Training learns, repeats itself, resumes, and acts in numpy as in torch."""
    _learner(session)
    session.install(*GROUPS["test"])
    _pytest(session, "tests/learning", *TWO_AT_ONCE, package="agents")


@nox.session(python="3.11", venv_backend="venv", tags=["evidence"], default=False)
def train(session: nox.Session) -> None:
    """The documented training command runs unchanged and beats the random policy (`-- --task NAME`: another task)."""
    _learner(session)
    documented = ["--task", "adversarial_multitenant", "--steps", "120000", "--seed", "0"]
    out = ["--output", str(ARTIFACTS / "training")]
    session.run("python", "train.py", *(session.posargs or documented), *out, env=_environment())


@nox.session(python="3.11", venv_backend="venv", tags=["tests"], default=False)
def recipes(session: nox.Session) -> None:
    """The recipes for other libraries run unchanged, on tiny budgets; TRL's trainer uses a model made by the test."""
    session.install("torch==2.13.0")
    session.install("stable-baselines3>=2.6", "tensorboard>=2.14", "transformers>=5.13,<6", "trl>=1.16,<2")
    session.install("minari[create,hdf5]>=0.5.3")
    _compose(session)
    session.install(*GROUPS["test"])
    session.run("pytest", *(session.posargs or ["tests/recipes"]), env=_environment())


@nox.session(python="3.11", tags=["tests"], default=False)
def verifiers(session: nox.Session) -> None:
    """Prime Intellect's verifiers runs rollouts of the installed environment with a scripted model, without a network."""
    _install(session, "agents", "[fast,verifiers]")
    session.install(*GROUPS["test"], "uv")
    session.run("pytest", *(session.posargs or ["tests/verifiers"]), env=_environment())


@nox.session(tags=["evidence"], default=False)
def references(session: nox.Session) -> None:
    """Compute the three references of every task's score again in this tree: `nox -s references -- bursty_workload`."""
    # Editable, because the command writes its results into the simulator's source.
    session.install("-e", "./packages/llmserve-sim[fast]", "./packages/llmserve-client", "./packages/llmserve-agents")
    session.run("python", "-m", "llmserve_agents.references", *session.posargs, env=_environment())


@nox.session(python="3.11", venv_backend="venv", tags=["evidence"], default=False)
def speed(session: nox.Session) -> None:
    """Measure training in windows per second beside Stable-Baselines3's PPO, and the time of each part."""
    _learner(session)
    session.install("stable-baselines3>=2.6", "gymnasium>=1.1")
    session.run("python", "-m", "benchmarks.training_speed", *session.posargs, env=_service_environment())


@nox.session(python="3.11", venv_backend="venv", tags=["evidence"], default=False)
def ray(session: nox.Session) -> None:
    """Episodes and whole trainings run on a local Ray cluster of several processes, with the same results."""
    _learner(session, "[cli,fast,ray,train]")
    session.install(*GROUPS["test"])
    _pytest(session, "tests/test_executors.py", "tests/evaluation/test_runner.py", package="agents")
    session.run("pytest", "tests/recipes/test_ray_sweep.py", env=_environment())


@nox.session(tags=["evidence"])
def demo(session: nox.Session) -> None:
    """An hour of real traffic through the default deployment under two configurations: a table and a picture."""
    _install(session, "sim", "[cli,fast]")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    session.run("python", "scripts/demo.py", "--out", str(ARTIFACTS), *session.posargs, env=_environment())


@nox.session(python="3.11", venv_backend="venv", tags=["evidence"])
def conformance(session: nox.Session) -> None:
    """Gymnasium's and Stable-Baselines3's checkers pass without warnings; SB3's PPO trains on the environment."""
    # pip, and torch first: asked for by another package, torch would come as a CUDA build of several gigabytes.
    session.install("torch==2.13.0")
    session.install("stable-baselines3>=2.6")
    _install(session, "sim", "[fast,gym]")
    session.install(*GROUPS["test"])
    _pytest(session, "tests/conformance")


@nox.session(python="3.11", tags=["evidence"], default=False)
def real(session: nox.Session) -> None:
    """A whole episode in real mode, killed half way, against `transformers serve` with a tiny, untrained model."""
    _install(session, "server")
    arguments = ["--transformers-python", _transformers(session), "--out", str(ARTIFACTS / "real"), *session.posargs]
    session.run("python", "scripts/real_mode.py", *arguments, env=_environment())


@nox.session(python="3.11", tags=["evidence"], default=False)
def llm(session: nox.Session) -> None:
    """The openai suite, a whole episode, against `transformers serve` with a tiny, untrained model."""
    _install(session, "agents", "[cli,fast,llm]")
    _install(session, "client")
    arguments = ["--transformers-python", _transformers(session), "--out", str(ARTIFACTS / "llm"), *session.posargs]
    session.run("python", "scripts/llm_baseline.py", *arguments, env=_environment())


def _transformers(session: nox.Session) -> str:
    """Make an environment that can serve a model on the CPU, once, and return its interpreter."""
    folder = Path(session.virtualenv.location).with_name("transformers-serving")
    python = str(folder / "bin" / "python")
    if not (folder / "complete").exists():
        session.run("python", "-m", "venv", "--clear", str(folder))
        # pip, and torch first: asked for by another package, torch would come as a CUDA build of several gigabytes.
        session.run(python, "-m", "pip", "install", "--quiet", "torch==2.13.0", external=True)
        session.run(python, "-m", "pip", "install", "--quiet", "transformers[serving]", external=True)
        (folder / "complete").touch()
    return python


@nox.session(tags=["tests"])
def scripts(session: nox.Session) -> None:
    """The submission's helper, the Space's staging and the two Dockerfiles work as documented."""
    _compose(session)
    session.install(*GROUPS["test"])
    session.run("pytest", *(session.posargs or ["tests/scripts", "tests/image", "tests/space"]), env=_environment())


@nox.session(tags=["space"])
def space(session: nox.Session) -> None:
    """The directory that `openenv push` uploads as a Space is staged, and holds nothing that a Space refuses."""
    session.install("pyyaml")
    arguments = session.posargs or ["--out", str(ARTIFACTS / "space"), "--replace"]
    session.run("python", "scripts/stage_space.py", *arguments)


@nox.session(tags=["space"], default=False)
def image(session: nox.Session) -> None:
    """The image builds and works without a network: endpoints, page, uid, a fast first step, a clean stop."""
    if subprocess.run([sys.executable, "scripts/check_image.py", "--engine"], cwd=ROOT, check=False).returncode:
        session.skip("no Docker engine runs here, and verify_image.sh is not to be had")
    session.install("httpx", "websockets", *GROUPS["test"], *GROUPS["browser"])
    if not _has_chromium(session):
        session.warn("the page in the image is not looked at: there is no Chromium, and no right to install one")
    arguments = session.posargs or ["--pytest", "tests/browser"]
    session.run(
        "python", "scripts/check_image.py", *arguments, env=_environment() | {"LLMSERVE_ARTIFACTS": str(ARTIFACTS)}
    )


@nox.session(tags=["evidence"], default=False)
def load(session: nox.Session) -> None:
    """One session steps nearly as fast as on an echo server, 256 run for minutes, and one more is refused."""
    _compose(session)
    session.install("matplotlib")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    session.run(
        "python", "-m", "benchmarks.load", "--out", str(ARTIFACTS), *session.posargs, env=_service_environment()
    )


@nox.session(tags=["evidence"], default=False)
def fuzz(session: nox.Session) -> None:
    """Ten thousands of bad inputs cause no 5xx, no hang, no lost session and no leak (`-- --cases N --seed N`)."""
    _compose(session)
    session.install(*GROUPS["fuzz"])
    session.run("python", "-m", "tests.fuzz", *session.posargs, env=_service_environment())


@nox.session(tags=["evidence"], default=False)
def attacks(session: nox.Session) -> None:
    """Floods, slow clients and foreign pages leave memory, disk, `/health` and the owner's key alone: a table."""
    _compose(session)
    session.run("python", "-m", "tests.attacks", *session.posargs, env=_service_environment())


@nox.session(tags=["evidence"], default=False)
def crash(session: nox.Session) -> None:
    """`kill -9` fifty times under 16 sessions loses nothing, on SQLite and PostgreSQL (`-- --kills N --seed N`)."""
    _compose(session)
    session.install(*_reinstalled(session, {"server": "[postgres]"}), *GROUPS["test"])
    session.run("python", "-m", "tests.crash", *session.posargs, env=_service_environment())
    if not session.posargs:
        tests = [f"packages/llmserve-server/tests/test_{name}.py" for name in ("store", "sessions", "sessions_threads")]
        beside = ("python", "-m", "tests.crash.postgres", "python", "-m", "pytest", "-q", *tests)
        session.run(*beside, env=_service_environment())


def _service_environment() -> dict[str, str]:
    """Return the environment of programs that start the server: they import the repository's scripts and folders."""
    return _environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])}
