"""The image's list of foreign requirements is what the packages' own metadata says."""

from __future__ import annotations

import pytest

from requirements import requirements


def test_the_servers_requirements_include_its_siblings_and_leave_the_siblings_out() -> None:
    found = requirements("llmserve-server")
    assert {"openenv", "numpy", "numba", "websockets"} <= {line.split(">")[0].split("[")[0] for line in found}
    assert not [line for line in found if line.startswith("llmserve")]


def test_an_extra_adds_what_it_names() -> None:
    more = set(requirements("llmserve-server[postgres]")) - set(requirements("llmserve-server"))
    assert [line.split("[")[0] for line in more] == ["psycopg"]


def test_nothing_that_the_image_needs_is_torch() -> None:
    assert not [line for line in requirements("llmserve-server[postgres]") if "torch" in line]


def test_a_package_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="numpy is no package of this repository"):
        requirements("numpy")
