"""The two Dockerfiles say the same, and what they copy is there and reaches the build."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from stage_space import context_sources

ROOT = Path(__file__).resolve().parents[2]
CANONICAL = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def _instructions(text: str) -> str:
    return text[text.index("\nFROM ") :]


def test_the_mirror_has_the_instructions_of_the_canonical_dockerfile() -> None:
    mirror = (ROOT / "server" / "Dockerfile").read_text(encoding="utf-8")
    assert _instructions(mirror) == _instructions(CANONICAL)


def test_everything_that_the_dockerfile_copies_is_in_the_repository_and_in_the_build_context() -> None:
    rules = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in {"#", ""}
    ]
    for source in context_sources(CANONICAL):
        assert (ROOT / source).exists(), source
        parents = [source, *(str(parent) for parent in Path(source).parents if str(parent) != ".")]
        kept = False
        for rule in rules:
            if any(fnmatch(name, rule.removeprefix("!")) for name in parents):
                kept = rule.startswith("!")
        assert kept, f"{source} is left out by .dockerignore"


def test_the_image_runs_as_a_numbered_user_with_a_health_check_that_needs_no_tool() -> None:
    final = CANONICAL[CANONICAL.rindex("\nFROM ") :]
    assert "\nUSER 1000\n" in final
    check = next(line for line in final.splitlines() if line.startswith("HEALTHCHECK "))
    assert 'CMD ["python"' in check
    assert "curl" not in check


def test_no_instruction_names_a_package_index_or_a_registry() -> None:
    for line in CANONICAL.splitlines():
        assert "index-url" not in line
        assert not line.startswith("FROM ") or line.split()[1] == "python:3.11-slim"


def test_the_weights_are_where_the_agents_look_for_them() -> None:
    """In the working directory of what the image runs."""
    final = CANONICAL[CANONICAL.rindex("\nFROM ") :]
    assert final.index("\nWORKDIR /app\n") < final.index("\nCOPY weights weights\n")
    assert "\nWORKDIR" not in final[final.index("\nCOPY weights weights\n") :]
