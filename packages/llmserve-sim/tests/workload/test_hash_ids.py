"""The block hashes of Mooncake's and Bailian's traces, as hashes of KV blocks of 16 tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.traces import read_trace


def mooncake(path: Path, *rows: tuple[int, int, object]) -> Path:
    """Write rows of (ms, prompt, hash_ids)."""
    lines = [
        json.dumps({"timestamp": at, "input_length": prompt, "output_length": 4, "hash_ids": ids})
        for at, prompt, ids in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def hashes_of(path: Path, **options: object) -> list[list[int]]:
    """Return each request's hashes."""
    prefixes = read_trace(path, prefixes=True, **options).prefixes  # type: ignore[arg-type]
    assert prefixes is not None
    ends = prefixes.start + prefixes.blocks
    return [prefixes.hashes[a:b].tolist() for a, b in zip(prefixes.start.tolist(), ends.tolist(), strict=True)]


def test_one_id_of_mooncake_stands_for_32_kv_blocks_and_the_last_may_be_partly_filled(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "m.jsonl", (0, 1024, [7, 9]), (1000, 600, [7, 3]), (2000, 600, [7]), (3000, 9, []))
    seven, nine, three = (list(range(i * 32, i * 32 + 32)) for i in (7, 9, 3))
    assert hashes_of(path) == [seven + nine, seven + three[: 600 // 16 - 32], seven, []]


def test_one_id_of_bailian_is_a_kv_block(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    row = {"chat_id": 1, "turn": 1, "timestamp": 0.5, "input_length": 40, "output_length": 2, "hash_ids": [5, 8, 6]}
    path.write_text(json.dumps(row) + "\n")
    assert hashes_of(path) == [[5, 8]]


def test_hashes_stay_with_their_requests_where_rows_are_sorted_skipped_and_cut(tmp_path: Path) -> None:
    rows = [(3000, 512, [3]), (1000, 512, [1]), (2000, 512, "no"), (0, 512, [0]), (4000, 512, [4])]
    path = mooncake(tmp_path / "m.jsonl", *rows)  # type: ignore[arg-type]
    found = hashes_of(path, sort=True, skip_bad=True, start_s=0.5, limit=2)
    assert [hashes[0] // 32 for hashes in found] == [1, 3]


def test_hashes_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "m.jsonl", (0, 512, "anything"))
    assert read_trace(path).prefixes is None


@pytest.mark.parametrize("ids", [None, "12", [1, 2, 3], [], [1.0, 2.0], [True, 2], [-1, 2], [1 << 62, 2]])
def test_ids_that_do_not_fit_the_prompt_are_refused_by_line_and_column(tmp_path: Path, ids: object) -> None:
    path = mooncake(tmp_path / "m.jsonl", (0, 512, [1]), (1000, 1024, ids))
    with pytest.raises(InvalidInputError) as refused:
        read_trace(path, prefixes=True)
    assert refused.value.field == "m.jsonl:line 2:hash_ids"


def test_a_format_without_hashes_is_refused_with_those_that_have_them(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("t_s,input,output\n0,10,2\n")
    with pytest.raises(InvalidInputError, match="bailian, mooncake") as refused:
        read_trace(path, prefixes=True)
    assert refused.value.field == "prefixes"


def test_hashes_come_from_parquet_too(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra files")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra files")
    table = arrow.table({"timestamp": [0], "input_length": [32], "output_length": [2], "hash_ids": [[6]]})
    parquet.write_table(table, tmp_path / "m.parquet")
    assert hashes_of(tmp_path / "m.parquet") == [[192, 193]]
    assert np.array_equal(read_trace(tmp_path / "m.parquet").prompt, [32])
