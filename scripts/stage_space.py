"""Stages the directory that `openenv push` uploads as a Hugging Face Docker Space, and checks it.

What the Dockerfile copies, the files that a Space and OpenEnv read, and the two that `openenv push` asks for; no symlink,
no lock file, no test, nothing too large for plain git. Knows nothing of credentials and sends nothing anywhere.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

ROOT = Path(__file__).resolve().parent.parent
#: Read at the root of a Space, of an OpenEnv environment or of a repository, beside what the Dockerfile copies.
ROOT_FILES = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "docs/page.png", "openenv.yaml", "pyproject.toml")
#: `openenv push` 0.10 refuses a directory without these two.
OPENENV_FILES = ("__init__.py", "client.py")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[co]", "*.egg-info", ".*", "tests", "fit")
#: Hugging Face's git takes larger files only through LFS, which this project does not use.
MAX_FILE_BYTES = 10 * 10**6
#: A Space's repository may hold 1 GB; source code that comes near that has something in it that is none.
MAX_TOTAL_BYTES = 50 * 10**6
LOCK_FILES = ("*.lock", "package-lock.json", "pylock*.toml", "requirements*.txt")
FRONT_MATTER = {
    "title": "LLMServeEnv",
    "emoji": "🚀",
    "colorFrom": "green",
    "colorTo": "blue",
    "sdk": "docker",
    "app_port": 7860,
    "base_path": "/web",
    "tags": ["openenv", "reinforcement-learning", "llm-serving"],
}


@dataclass(frozen=True)
class Staged:
    """What lies in the staged directory: its files with their sizes, and what is wrong with it (nothing, it is hoped)."""

    folder: Path
    sizes: dict[str, int]
    problems: tuple[str, ...]


def context_sources(dockerfile: str) -> list[str]:
    """Return the paths that a Dockerfile copies from its build context, in its order, each once."""
    sources: list[str] = []
    for line in dockerfile.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["COPY"] and not any(word.startswith("--from") for word in words):
            sources += [word for word in words[1:-1] if not word.startswith("--")]
    return list(dict.fromkeys(sources))


def stage(out: Path) -> Staged:
    """Make `out`, which may not hold anything yet, the Space's directory, and look it over.

    Raises:
        FileExistsError: `out` exists and is not an empty directory.
        FileNotFoundError: the Dockerfile copies something that is not there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: name an empty folder, or pass --replace")
    out.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys((*ROOT_FILES, *context_sources((ROOT / "Dockerfile").read_text(encoding="utf-8")))):
        source, target = ROOT / name, out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=LEFT_OUT, dirs_exist_ok=True)
        else:
            shutil.copy(source, target, follow_symlinks=False)
    for name in OPENENV_FILES:
        shutil.copy(ROOT / "scripts" / "space" / name, out / name)
    return look_over(out)


def look_over(folder: Path) -> Staged:
    """Return what is in `folder` and what a Space, plain git or `openenv push` would not take."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.lstat().st_size for path in paths}
    problems = [f"{path.relative_to(folder)} is a symlink" for path in paths if path.is_symlink()]
    for name, size in sizes.items():
        if any(PurePosixPath(name).match(pattern) for pattern in LOCK_FILES):
            problems.append(f"{name} is a lock file: it names the registry that it was made against")
        if size > MAX_FILE_BYTES:
            problems.append(f"{name} has {size:,} bytes; plain git on Hugging Face takes {MAX_FILE_BYTES:,}")
    if sum(sizes.values()) > MAX_TOTAL_BYTES:
        problems.append(f"{sum(sizes.values()):,} bytes in all; {MAX_TOTAL_BYTES:,} are expected at most")
    problems += [f"{name} is missing" for name in (*ROOT_FILES, *OPENENV_FILES) if name not in sizes]
    if "README.md" in sizes:
        problems += _front_matter_problems((folder / "README.md").read_text(encoding="utf-8"))
    if "openenv.yaml" in sizes:
        problems += _manifest_problems((folder / "openenv.yaml").read_text(encoding="utf-8"))
    return Staged(folder, sizes, tuple(problems))


def _front_matter_problems(readme: str) -> list[str]:
    opening, _, rest = readme.partition("---\n")
    if opening or "\n---\n" not in rest:
        return ["README.md does not begin with front matter: a Space would not know what it is"]
    found = yaml.safe_load(rest.partition("\n---\n")[0])
    return [
        f"README.md: {key} is {found.get(key)!r} in the front matter, not {value!r}"
        for key, value in FRONT_MATTER.items()
        if found.get(key) != value
    ]


def _manifest_problems(text: str) -> list[str]:
    manifest = yaml.safe_load(text)
    expected = {"type": "space", "runtime": "fastapi", "app": "server.app:app", "port": 7860}
    return [
        f"openenv.yaml: {key} is {manifest.get(key)!r}, not {value!r}"
        for key, value in expected.items()
        if manifest.get(key) != value
    ]


def main() -> int:
    """Stage the Space and say what is in it; the exit code says whether it can be pushed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "artifacts" / "space", help="folder (default: artifacts/space)"
    )
    parser.add_argument("--replace", action="store_true", help="remove the folder first, if an earlier run staged it")
    options = parser.parse_args()
    out: Path = options.out
    if options.replace and (out / "openenv.yaml").is_file() and (out / "client.py").is_file():
        shutil.rmtree(out)
    staged = stage(out)
    largest = sorted(staged.sizes.items(), key=lambda item: -item[1])[:3]
    print(f"{len(staged.sizes)} files, {sum(staged.sizes.values()):,} bytes in {out}; the largest:")
    for name, size in largest:
        print(f"  {size:>9,}  {name}")
    for problem in staged.problems:
        print(f"PROBLEM: {problem}")
    if not staged.problems:
        print(f"push it with: openenv push {out} --repo-id YOUR-NAME/llmserve-env")
    return int(bool(staged.problems))


if __name__ == "__main__":
    sys.exit(main())
