"""The table says of every request what the schedulers say, and the figures are those of the table."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from llmserve_sim.configuration import Configurator
from llmserve_sim.engine import KernelEngine
from llmserve_sim.engine.interface import STATUSES, Traffic
from llmserve_sim.env import EngineKind, ServingEnv
from llmserve_sim.errors import InvalidInputError, MissingExtraError
from llmserve_sim.replay.files import COLUMNS, require_table_file, write_requests
from llmserve_sim.replay.requests import OUTCOMES, RequestCollector, RequestTable
from llmserve_sim.replay.summary import paid_ps, summarise_requests
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.scenario import generate

WINDOWS = 12


@pytest.fixture(scope="module")
def crowded() -> Task:
    """A task in which requests are cut short, give up, are refused for their length and for the queue's."""
    task = load_task("adversarial_multitenant")
    return Task.model_validate(
        task.model_dump() | {"windows": WINDOWS, "patience_s": 2.0, "max_len_tokens": 900, "max_unfinished": 40}
    )


def play(task: Task, *, engine: EngineKind = "auto") -> tuple[ServingEnv, RequestTable, list[int]]:
    """Return the environment after an episode, its table, and the requests that met their targets, by window."""
    env, collector, met = ServingEnv(task, engine=engine, latencies=engine != "reference"), RequestCollector(), []
    env.start(3)
    for window in range(task.windows):
        outcome = env.advance(ServeAction(batch_cap=4 + window % 3, prefill_decode_split=window % 4 == 3))
        env.count_latencies(collector)
        measured = outcome.measurement
        met.append(round(measured.slo_compliance_rate * measured.due_requests))
    slo = Configurator.build(task, None).slo
    traffic = generate(task, 3).traffic
    until = task.windows * task.window_ps
    return env, collector.table(traffic, slo, max_len=task.max_len_tokens, until_ps=until, cut=True), met


def test_every_request_has_one_outcome_and_the_counts_are_the_episodes(crowded: Task) -> None:
    env, table, met = play(crowded)
    state = env.state()
    assert len(table) == state.arrived
    counts = {name: table.count(name) for name in OUTCOMES}
    assert counts == {
        "finished": state.finished,
        "abandoned": state.abandoned,
        "rejected": state.rejected,
        "unfinished": state.queued + state.running,
    }
    assert min(counts.values()) > 0
    assert int(table.met.sum()) == sum(met) > 0


def test_a_reason_is_given_exactly_where_a_request_did_not_end_as_asked(crowded: Task) -> None:
    _, table, _ = play(crowded)
    for reason, outcome in (
        ("patience", "abandoned"),
        ("max_model_len", "rejected"),
        ("max_unfinished", "rejected"),
        ("cut", "finished"),
        ("episode_end", "unfinished"),
    ):
        assert table.count(outcome, reason) == table.count(reason=reason) > 0
    cut = (table.prompt + table.output > 900) & table.finished
    assert table.count(reason="cut") == cut.sum()
    assert (table.delivered[cut] == 900 - table.prompt[cut]).all()
    assert (table.delivered[table.finished & ~cut] == table.output[table.finished & ~cut]).all()


def test_the_plain_scheduler_gives_the_same_table(crowded: Task) -> None:
    _, kernel, _ = play(crowded, engine="python")
    _, plain, _ = play(crowded, engine="reference")
    for name, column in vars(kernel).items():
        assert np.array_equal(column, getattr(plain, name)), name


def test_the_table_holds_the_records_of_the_engine() -> None:
    task = load_task("bursty_workload")
    configurator = Configurator.build(task, None)
    traffic = generate(task, 1).traffic
    engine = KernelEngine(configurator.fleet, configurator.slo, traffic, record=True)
    env = ServingEnv(task, latencies=True)
    env.start(1)
    collector, records = RequestCollector(), []
    for _ in range(WINDOWS):
        env.advance(ServeAction(batch_cap=64))
        env.count_latencies(collector)
        setting = env.snapshot().setting
        assert setting is not None
        engine.step(setting.plan)
        records += engine.records()
    table = collector.table(
        traffic, configurator.slo, max_len=task.max_len_tokens, until_ps=WINDOWS * task.window_ps, cut=True
    )
    assert len(records) > 20
    for record in records:
        i = record.id
        assert STATUSES[table.outcome[i]] == record.status
        assert (table.scheduled_ps[i], table.first_ps[i], table.last_ps[i]) == (
            record.scheduled_ps,
            record.first_ps,
            record.last_ps,
        )
        assert (table.preemptions[i], table.replica[i]) == (record.preemptions, record.replica)


def test_figures_over_requests_are_those_of_the_table(crowded: Task) -> None:
    _, table, _ = play(crowded)
    found = summarise_requests(table, duration_ps=60 * 10**12, output_tokens=5_000, usd_per_hour=3.98)
    ttft = 1000.0 * np.array(
        [(f - a) / 1e12 for f, a in zip(table.first_ps.tolist(), table.arrival_ps.tolist(), strict=True) if f >= 0]
    )
    assert found.ttft_ms.mean == pytest.approx(ttft.mean())
    assert [found.ttft_ms.p50, found.ttft_ms.p99] == pytest.approx(np.percentile(ttft, [50, 99]).tolist())
    done = table.finished & (table.delivered > 1)
    tpot = (table.last_ps - table.first_ps)[done] / 1e9 / (table.delivered[done] - 1)
    assert found.tpot_ms.p90 == pytest.approx(np.percentile(tpot, 90))
    assert found.goodput_requests_per_s == pytest.approx(table.met.sum() / 60)
    assert found.goodput_tokens_per_s == pytest.approx(table.delivered[table.met].sum() / 60)
    assert found.cost_usd == pytest.approx(3.98 / 60)
    assert found.usd_per_million_output_tokens == pytest.approx(3.98 / 60 / 5_000 * 1e6)
    assert sum(found.requests[name] for name in OUTCOMES) == found.requests["arrived"]


def test_an_episode_without_requests_has_figures_without_values() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    traffic = Traffic(nothing, nothing, nothing, nothing, nothing)
    slo = Configurator.build(load_task("static_workload"), None).slo
    table = RequestCollector().table(traffic, slo, max_len=100, until_ps=10**12, cut=False)
    found = summarise_requests(table, duration_ps=10**12, output_tokens=0, usd_per_hour=1.0)
    assert found.ttft_ms.p50 is found.itl_ms.mean is found.slo_compliance is None
    assert found.usd_per_million_output_tokens is None
    assert paid_ps(table, traffic_ps=7, episode_ps=9) == 7


def test_the_file_has_a_row_per_request_and_empty_cells_for_what_never_happened(crowded: Task, tmp_path: Path) -> None:
    _, table, _ = play(crowded)
    names = [tenant.id for tenant in crowded.tenants]
    path = tmp_path / "requests.csv"
    write_requests(table, path, tenants=names)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(table)
    ttft = np.array([float(row["ttft_ms"]) for row in rows if row["ttft_ms"]])
    assert np.array_equal(ttft, 1000.0 * table.ttft_s[~np.isnan(table.ttft_s)])
    for row in rows:
        assert (row["e2e_ms"] == "") == (row["outcome"] != "finished")
        assert (row["reason"] == "") == (
            row["outcome"] == "finished" and row["output_tokens"] == row["delivered_tokens"]
        )
        assert row["tenant"] in names
    with pytest.raises(InvalidInputError, match=r"requests: must end in one of \.csv, \.parquet"):
        write_requests(table, tmp_path / "requests.xlsx", tenants=names)


def test_a_parquet_file_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llmserve-sim\[files\]'"):
        require_table_file(Path("requests.parquet"))


def test_a_parquet_file_holds_what_the_csv_file_holds(crowded: Task, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra files")
    _, table, _ = play(crowded)
    names = [tenant.id for tenant in crowded.tenants]
    for suffix in ("csv", "parquet"):
        write_requests(table, tmp_path / f"requests.{suffix}", tenants=names)
    with (tmp_path / "requests.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = parquet.read_table(tmp_path / "requests.parquet").to_pydict()
    assert tuple(columns) == COLUMNS
    for name, values in columns.items():
        assert ["" if value is None else str(value) for value in values] == [row[name] for row in rows]
