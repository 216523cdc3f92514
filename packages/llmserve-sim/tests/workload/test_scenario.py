"""An episode is what its task says, a pure function of (task, seed), and made of streams that do not disturb each other."""

from __future__ import annotations

import numpy as np
import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import Task, list_tasks, load_task
from llmserve_sim.workload.scenario import Phase, Scenario, generate

TASKS = [task.id for task in list_tasks()]
ARRAYS = ("arrival_ps", "prompt", "output", "priority", "tenant")


def changed(task: Task, **tables: object) -> Task:
    """Return the task with whole tables replaced, validated again."""
    return Task.model_validate(task.model_dump(mode="python") | tables)


def part(task: Task, table: str, **values: object) -> dict[str, object]:
    """Return one table of the task with some of its values replaced."""
    own: dict[str, object] = task.model_dump(mode="python")[table]
    return own | values


def differing(a: Scenario, b: Scenario) -> set[str]:
    """Return the names of the arrays that differ."""
    names = {n for n in ARRAYS if not np.array_equal(getattr(a.traffic, n), getattr(b.traffic, n))}
    window = ("phase", "rate", "acceptance", "cotenant_bytes", "quality_stake")
    return names | {n for n in window if not np.array_equal(getattr(a, n), getattr(b, n))}


@pytest.mark.parametrize("task_id", TASKS)
def test_an_episode_is_well_formed(task_id: str) -> None:
    task = load_task(task_id)
    s = generate(task, 3)
    t = s.traffic
    assert s.windows == task.windows
    assert s.window_ps == round(task.window_s * 1e12)
    for name in ARRAYS:
        array = getattr(t, name)
        assert array.dtype == np.int64
        assert len(array) == len(t)
    assert (np.diff(t.arrival_ps) >= 0).all()
    assert t.arrival_ps[0] >= 0
    assert t.arrival_ps[-1] < s.windows * s.window_ps
    assert t.prompt.min() >= 1
    assert t.output.min() >= 1
    assert set(t.priority.tolist()) <= {0, 1}
    assert set(t.tenant.tolist()) <= set(range(len(task.tenants)))
    assert s.acceptance.shape == s.quality_stake.shape == (s.windows, 4)
    assert ((s.acceptance >= 0.05 - 2**-16) & (s.acceptance <= 0.95 + 2**-16)).all()
    assert (s.cotenant_bytes >= 0).all()
    assert s.counts().sum() == len(t)
    assert s.arrivals_before(0) == 0
    assert s.arrivals_before(s.windows) == len(t)


def test_committed_digest_holds_on_every_platform_and_version(everything: Task) -> None:
    assert generate(everything, 42).digest() == "48d9c4503f006869c841c1dcdbf6b3f32d4e053ed80e345ebd3803f7025fa628"


def test_an_episode_is_a_function_of_task_and_seed(everything: Task) -> None:
    digests = [generate(everything, seed).digest() for seed in range(20)]
    assert len(set(digests)) == 20
    generate(load_task("static_workload"), 5)  # whatever was drawn in between
    assert [generate(everything, seed).digest() for seed in range(20)] == digests


def test_every_array_belongs_to_streams_of_its_own(everything: Task) -> None:
    base = generate(everything, 1)
    lengths = everything.model_dump(mode="python")["lengths"]
    output = lengths["output"] | {"mean_tokens": 100.0}
    prompt = lengths["prompt"] | {"sigma": 0.5}
    cases: list[tuple[dict[str, object], set[str]]] = [
        ({"lengths": lengths | {"output": output}}, {"output"}),
        ({"lengths": lengths | {"prompt": prompt}}, {"prompt"}),
        ({"lengths": lengths | {"mega": None}}, {"prompt"}),
        ({"priority": part(everything, "priority", share=0.5)}, {"priority"}),
        ({"acceptance": part(everything, "acceptance", mean=0.7)}, {"acceptance"}),
        ({"cotenant": part(everything, "cotenant", high_gb=40.0)}, {"cotenant_bytes"}),
        ({"cotenant": None}, {"cotenant_bytes"}),
        (
            {"lengths": lengths | {"alternation": None}},
            {"prompt", "output", "phase"},
        ),
        ({"priority": part(everything, "priority", surge=None)}, {"priority", "phase"}),
        ({"traffic": part(everything, "traffic", gap_cv=1.0)}, set(ARRAYS)),
    ]
    for tables, expected in cases:
        assert differing(base, generate(changed(everything, **tables), 1)) <= expected, tables
        assert differing(base, generate(changed(everything, **tables), 1)), tables


def test_a_longer_episode_begins_with_the_shorter_one(everything: Task) -> None:
    short, long = generate(everything, 4), generate(changed(everything, windows=300), 4)
    n = len(short.traffic)
    for name in ARRAYS:
        assert np.array_equal(getattr(long.traffic, name)[:n], getattr(short.traffic, name))
    for name in ("phase", "rate", "acceptance", "cotenant_bytes", "quality_stake"):
        assert np.array_equal(getattr(long, name)[:240], getattr(short, name))


def test_means_and_shares_are_those_of_the_task() -> None:
    task = load_task("adversarial_multitenant")
    drawn = [generate(task, seed) for seed in range(60)]
    loaded = np.concatenate([np.repeat(s.loaded, s.counts()) for s in drawn])
    prompt = np.concatenate([s.traffic.prompt for s in drawn])
    tenant = np.concatenate([s.traffic.tenant for s in drawn])
    priority = np.concatenate([s.traffic.priority for s in drawn]) == 0
    mega = task.lengths.mega
    assert mega is not None
    for state, where in ((False, ~loaded), (True, loaded)):
        share = mega.share_burst if state else mega.share
        # The usual prompts reach the mega prompts' shortest, 4000, but hardly ever.
        assert abs((prompt[where] > 4000).mean() - share) < 0.005
        assert abs(prompt[where & (prompt < 4000)].mean() / task.lengths.prompt.mean_tokens - 1) < 0.03
        wanted = [t.share_burst if state else t.share for t in task.tenants]
        assert np.abs(np.bincount(tenant[where]) / where.sum() - wanted).max() < 0.01
        expected = task.priority.share_burst if state else task.priority.share
        assert abs(priority[where].mean() - expected) < 0.01
    output = np.concatenate([s.traffic.output for s in drawn])
    assert abs(output.mean() / task.lengths.output.mean_tokens - 1) < 0.01
    assert abs(np.corrcoef(prompt, output)[0, 1]) < 0.01


def test_arrivals_follow_calm_burst_and_spike_rates() -> None:
    task = load_task("adversarial_multitenant")
    assert task.traffic.burst is not None
    assert task.traffic.spikes is not None
    drawn = [generate(task, seed) for seed in range(60)]
    phase = np.concatenate([s.phase for s in drawn])
    counts = np.concatenate([s.counts() for s in drawn])
    burst = task.traffic.burst
    assert abs(np.mean((phase & Phase.BURST) != 0) - burst.length_windows / burst.period_windows) < 0.01
    assert abs(np.mean((phase & Phase.SPIKE) != 0) - 0.05) < 0.01
    for where, rate in (
        (phase == Phase.CALM, task.traffic.rate_rps),
        (phase == Phase.BURST, task.traffic.burst.rate_rps),
        (phase == Phase.SPIKE, task.traffic.spikes.rate_rps),
    ):
        assert abs(counts[where].mean() / (rate * task.window_s) - 1) < 0.03


def test_stakes_and_the_dip_follow_the_load() -> None:
    task = load_task("bursty_workload")
    s = generate(task, 9)
    for column, tenant in enumerate(task.tenants):
        assert set(s.quality_stake[s.loaded, column].tolist()) == {tenant.quality_stake_burst}
        assert set(s.quality_stake[~s.loaded, column].tolist()) == {tenant.quality_stake}
    assert not s.quality_stake[:, len(task.tenants) :].any()
    flat = changed(task, acceptance=part(task, "acceptance", swing=0.0, noise_sd=0.0))
    s = generate(flat, 9)
    assert np.abs(s.acceptance[s.loaded, 0] - 0.56).max() < 1e-4
    assert np.abs(s.acceptance[~s.loaded, 0] - 0.66).max() < 1e-4
    assert np.abs(s.acceptance[~s.loaded, 1] - 0.76).max() < 1e-4


def test_the_neighbours_wave_spans_its_range_with_its_period() -> None:
    task = load_task("static_workload")
    assert task.cotenant is not None
    quiet = changed(task, cotenant=part(task, "cotenant", noise_gb=0.0))
    for seed in range(10):
        gb = generate(quiet, seed).cotenant_bytes / 1e9
        assert abs(gb.min() - task.cotenant.low_gb) < 0.4
        assert abs(gb.max() - task.cotenant.high_gb) < 0.4
        assert np.abs(gb[30:] - gb[:-30]).max() < 1e-9
    assert len({int(generate(quiet, seed).cotenant_bytes[0]) for seed in range(40)}) > 20


def test_alternation_and_surges_change_lengths_and_priority_in_their_windows() -> None:
    task = load_task("phase_shift")
    s = generate(task, 2)
    long = np.repeat((s.phase & Phase.ALTERNATE) != 0, s.counts())
    surge = np.repeat((s.phase & Phase.SURGE) != 0, s.counts())
    alternation = task.lengths.alternation
    assert alternation is not None
    assert abs(s.traffic.prompt[long].mean() / alternation.prompt.mean_tokens - 1) < 0.05
    assert abs(s.traffic.output[long].mean() / alternation.output.mean_tokens - 1) < 0.05
    assert abs(s.traffic.prompt[~long].mean() / task.lengths.prompt.mean_tokens - 1) < 0.05
    assert abs(s.traffic.output[~long].mean() / task.lengths.output.mean_tokens - 1) < 0.05
    assert (s.traffic.priority[surge] == 0).mean() > 0.6
    assert (s.traffic.priority[~surge] == 0).mean() < 0.15


def test_a_day_swings_by_its_peak_to_trough() -> None:
    task = load_task("diurnal_workload")
    flat = changed(task, traffic=part(task, "traffic", rate_noise=None))
    rate = generate(flat, 0).rate
    assert abs(rate.max() / rate.min() - 4.0) < 1e-6
    assert rate.argmin() == 0
    assert abs(rate.mean() - task.traffic.rate_rps) < 1e-6


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, True, "1"])
def test_a_bad_seed_is_refused(seed: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        generate(load_task("static_workload"), seed)  # type: ignore[arg-type]
    assert caught.value.field == "seed"
