"""Proximal policy optimisation: it repeats itself, goes on where it was interrupted, and learns what is obvious."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmserve_agents.errors import MissingExtraError
from llmserve_agents.learning.features import FEATURES
from llmserve_agents.learning.network import HEAD_SLICES, HEADS, KEEP_KNOBS, MLPPolicy, standing
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import GRID_SIZES
from llmserve_sim.tasks import load_task

torch = pytest.importorskip("torch", reason="torch comes with the extra 'train'")
ppo = pytest.importorskip(
    "llmserve_agents.learning.ppo", reason="training needs the extra 'train'", exc_type=MissingExtraError
)

WINDOWS = 6


@pytest.fixture
def task(short_task: Path) -> str:
    return str(short_task)


def tiny(task: str, **changes: Any) -> Any:
    """A run of seconds: 4 updates of 4 episodes."""
    sizes: dict[str, Any] = {
        "task": task, "steps": 4 * 4 * WINDOWS, "num_envs": 4, "twins": 1, "hidden": 8, "epochs": 2, "minibatches": 3,
        "validate_every": 2, "validation_episodes": 3,
    }  # fmt: skip
    return ppo.PPOConfig(**sizes | changes)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def told(update: Any) -> tuple[Any, ...]:
    """What an update says, but for the time that it took."""
    return (update.number, update.steps, update.episodic_return, update.validation, update.best, update.losses)


def test_a_run_repeats_itself_for_a_seed_and_differs_for_another(task: str) -> None:
    first, second, other = (ppo.train(tiny(task, seed=seed)) for seed in (1, 1, 2))
    assert equal(first.tensors, second.tensors)
    assert [told(update) for update in first.updates] == [told(update) for update in second.updates]
    assert not equal(first.tensors, other.tensors)


@pytest.mark.parametrize("sizes", [{}, {"num_envs": 20, "minibatches": 6, "hidden": 128, "steps": 180 * WINDOWS}])
def test_threads_change_nothing(task: str, sizes: dict[str, int]) -> None:
    """Products of a few rows come out of the libraries in the last digits as their threads have it: there are none but ours."""
    assert equal(ppo.train(tiny(task, threads=2, **sizes)).tensors, ppo.train(tiny(task, **sizes)).tensors)


def test_threads_of_torch_change_nothing_and_are_left_as_they_were(task: str) -> None:
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(ppo.train(tiny(task, hidden=128, clone_from="static", clone_steps=600)).tensors)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert equal(*runs)


def test_a_step_goes_down_the_gradient_of_the_whole_minibatch(task: str) -> None:
    """Computed in shares, the gradient is that of the textbook's loss over all rows."""
    trainer = ppo.Trainer(tiny(task, num_envs=7, entropy=0.01))
    lesson, _ = trainer._lesson(trainer._play(0.4))
    with torch.no_grad():  # a policy that has moved on since it acted: ratios on both sides of the clip
        for parameter in trainer.model.actor.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    parameters = list(trainer.model.parameters())
    gain = (lesson.advantages - lesson.advantages.mean()) / lesson.advantages.std()
    total, ratios = torch.zeros(()), []
    for row in range(len(lesson)):
        logits = (trainer.model.logits(lesson.inputs[row : row + 1]) + lesson.mask[row])[0]
        heads = [torch.distributions.Categorical(logits=logits[where]) for where in HEAD_SLICES]
        logp = torch.stack([head.log_prob(lesson.choices[row, knob]) for knob, head in enumerate(heads)])
        ratio = ((logp - lesson.logp[row]) * lesson.own[row]).sum().exp()
        ratios.append(float(ratio.detach()))
        total -= torch.min(ratio * gain[row], ratio.clamp(0.8, 1.2) * gain[row])
        if lesson.drawn[row] >= 0:
            total -= trainer.config.trial_weight * gain[row].clamp(min=0) * logp[lesson.drawn[row]]
        total -= 0.01 * sum(own * head.entropy() for own, head in zip(lesson.own[row], heads, strict=True))
        error = trainer.model.value(lesson.inputs[row : row + 1])[0] - lesson.returns[row]
        total += trainer.config.value_weight * 0.5 * error.square()
    assert min(ratios) < 0.8
    assert max(ratios) > 1.2
    slow = torch.autograd.grad(total / len(lesson), parameters)
    norm = torch.sqrt(sum(gradient.square().sum() for gradient in slow))
    trainer._descend(lesson, 0.01)
    bound = min(1.0, trainer.config.max_grad_norm / float(norm))
    for parameter, gradient in zip(parameters, slow, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), bound * gradient.numpy(), atol=2e-5)


def test_the_quick_tanh_is_tanh_and_has_its_gradient() -> None:
    x = torch.linspace(-12.0, 12.0, 2001, requires_grad=True)
    y = ppo.Tanh.apply(x)
    np.testing.assert_allclose(y.detach().numpy(), np.tanh(x.detach().numpy().astype(float)), atol=2e-7)
    [gradient] = torch.autograd.grad(y.sum(), x)
    np.testing.assert_allclose(gradient.numpy(), 1.0 - np.tanh(x.detach().numpy().astype(float)) ** 2, atol=5e-7)


def test_matrix_products_keep_to_one_thread(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for small products take more time than the products."""
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    seen: list[set[int]] = []
    play = ppo.Trainer._play
    monkeypatch.setattr(ppo.Trainer, "_play", lambda trainer, share: seen.append(threads()) or play(trainer, share))
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        ppo.train(tiny(task, steps=1))
        assert threads() == before
    assert seen == [{1}]


def test_training_leaves_the_global_generator_of_torch_alone(task: str) -> None:
    before = torch.get_rng_state()
    ppo.train(tiny(task))
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_run_ends_as_it_would_have(task: str, tmp_path: Path, after: int) -> None:
    whole = ppo.train(tiny(task))
    begun = ppo.Trainer(tiny(task))
    for _ in range(after):
        begun.update()
    begun.save(tmp_path / "state.pt")
    resumed = ppo.Trainer.resume(tmp_path / "state.pt").run()
    assert equal(resumed.tensors, whole.tensors)
    assert (resumed.validation, resumed.steps, resumed.best_steps) == (whole.validation, whole.steps, whole.best_steps)
    assert [told(update) for update in resumed.updates] == [told(update) for update in whole.updates]


def test_the_time_of_a_resumed_run_goes_on(task: str, tmp_path: Path) -> None:
    begun = ppo.Trainer(tiny(task))
    begun._began -= 1000.0
    begun.update()
    begun.save(tmp_path / "state.pt")
    assert ppo.Trainer.resume(tmp_path / "state.pt").update().seconds > 1000.0


def test_a_finished_run_that_is_resumed_is_finished(task: str, tmp_path: Path) -> None:
    trainer = ppo.Trainer(tiny(task))
    whole = trainer.run()
    trainer.save(tmp_path / "state.pt")
    again = ppo.Trainer.resume(tmp_path / "state.pt").run()
    assert equal(again.tensors, whole.tensors)
    assert again.steps == whole.steps


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + bytes(40)])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InvalidInputError, match="resume: must be the state of a training run"):
        ppo.Trainer.resume(tmp_path / "state.pt")


@pytest.mark.parametrize("content", [[], {}, {"config": {"nonsense": 1}}, {"config": {}}])
def test_a_state_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(InvalidInputError, match="resume: must be the state of a training run"):
        ppo.Trainer.resume(tmp_path / "state.pt")


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    torch.save({"config": _Trap(tmp_path / "trace")}, tmp_path / "state.pt")
    with pytest.raises(InvalidInputError, match="resume"):
        ppo.Trainer.resume(tmp_path / "state.pt")
    assert not (tmp_path / "trace").exists()


class _Trap:
    """Unpickled, it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_it_learns_a_task_whose_best_action_is_obvious(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward is made to be the share of knobs that stand at one point: a policy can only learn to stand there."""
    goal = np.array([3, 9, 2, 1, 0, 1])
    advance = ServingBatch.advance

    def rewarded(self: ServingBatch, actions: Any) -> Any:
        outcome = advance(self, actions)
        return _Rewarded(outcome, (actions == goal).mean(axis=1))

    monkeypatch.setattr(ServingBatch, "advance", rewarded)
    chance = float(np.mean([1 / size for size in GRID_SIZES]))
    config = tiny(task, steps=16 * WINDOWS * 40, num_envs=16, hidden=32, learning_rate=5e-3, keep_bias=0.0, gamma=0.5)
    result = ppo.train(config)
    assert result.updates[0].episodic_return < chance + 0.1
    assert result.validation > 0.9


class _Rewarded:
    """An outcome with another reward."""

    def __init__(self, outcome: Any, reward: Any) -> None:
        self.measurement, self.done, self.reward = outcome.measurement, outcome.done, reward


def test_the_best_by_validation_is_kept(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, kept = iter([0.3, 0.7, 0.5]), []
    monkeypatch.setattr(ppo.Trainer, "validate", lambda self: kept.append(self.tensors()) or next(values))
    result = ppo.train(tiny(task, steps=6 * 4 * WINDOWS))
    assert (result.validation, result.best_steps, result.steps) == (0.7, 4 * 4 * WINDOWS, 6 * 4 * WINDOWS)
    assert equal(result.tensors, kept[1])
    assert [update.validation for update in result.updates] == [None, 0.3, None, 0.7, None, 0.5]
    assert [update.best for update in result.updates] == [None, 0.3, 0.3, 0.7, 0.7, 0.7]


def test_the_last_update_is_always_validated(task: str) -> None:
    result = ppo.train(tiny(task, validate_every=100))
    assert [update.validation is None for update in result.updates] == [True, True, True, False]


def test_what_is_kept_is_the_policy_that_was_validated(task: str) -> None:
    result = ppo.train(tiny(task))
    found = load_task(task)
    policy = MLPPolicy.of(result.tensors, can_split=ServingBatch(found, 1).can_split)
    assert ppo.play(policy, found, ppo.validation_seeds(found, 3)).mean() == pytest.approx(result.validation, abs=0)


def test_seeds_of_training_and_of_validation_keep_to_their_ranges(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    start = ServingBatch.start
    monkeypatch.setattr(ServingBatch, "start", lambda self, some: seeds.extend(some) or start(self, some))
    ppo.train(tiny(task, validate_every=4))
    ranges = load_task(task).seeds
    trained, validated = seeds[:16], seeds[16:]
    assert all(ranges.train.start <= seed < ranges.train.stop for seed in trained)
    assert len(set(trained)) > 8
    assert validated == list(range(ranges.validation.start, ranges.validation.start + 3))


def rolled(rewards: np.ndarray, drawn: np.ndarray | None = None) -> ppo.Rollout:
    """A rollout with these rewards [windows, envs], and nothing else in it."""
    nothing = np.full(rewards.shape, -1) if drawn is None else drawn
    blank = np.zeros((*rewards.shape, 1), dtype=np.float32)
    return ppo.Rollout(
        choices=blank.astype(np.int64),
        drawn=nothing,
        inputs=blank,
        logp=blank,
        rewards=rewards,
        last_inputs=blank[0],
        held=nothing >= 0,
    )


def test_advantages_are_those_of_the_slow_definition(task: str) -> None:
    """Up to a trial's beginning, after which nothing counts for the choices before."""
    trainer = ppo.Trainer(tiny(task, gamma=0.9, gae_lambda=0.8, num_envs=3, twins=1))
    rng = np.random.default_rng(0)
    rewards, values = (rng.normal(size=(7, 3)).astype(np.float32) for _ in range(2))
    last = rng.normal(size=3).astype(np.float32)
    drawn = np.full((7, 3), -1)
    drawn[4, 1], drawn[2, 2] = 3, 4
    advantages, returns = trainer._advantages(rolled(rewards, drawn), values, last)
    scaled = (rewards - trainer.returns.mean) / trainer.returns.deviation
    for env, ends in enumerate(([7] * 7, [4, 4, 4, 4, 7, 7, 7], [2, 2, 7, 7, 7, 7, 7])):
        v = [*values[:, env].tolist(), float(last[env])]
        deltas = [float(scaled[t, env]) + 0.9 * v[t + 1] - v[t] for t in range(7)]
        for t in range(7):
            slow = sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in range(t, ends[t]))
            assert advantages[t, env] == pytest.approx(slow, abs=1e-5)
            assert returns[t, env] == pytest.approx(slow + v[t], abs=1e-5)


def test_what_happens_to_all_twins_is_the_traffics_doing(task: str) -> None:
    """A wave that comes over everyone who faces it is no advantage; one twin's own good fortune is, against the others."""
    trainer = ppo.Trainer(tiny(task, num_envs=6, twins=3))
    values, last = np.zeros((5, 6), dtype=np.float32), np.zeros(6, dtype=np.float32)
    wave = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    shared, returns = trainer._advantages(rolled(wave.repeat(3, axis=1)), values, last)
    np.testing.assert_allclose(shared, 0.0, atol=1e-5)
    assert np.abs(returns).max() > 0.1, "the critic learns from it all the same"
    luck = wave.repeat(3, axis=1)
    luck[4, 1] += 1.0
    own, _ = trainer._advantages(rolled(luck), values, last)
    [gain] = {round(float(x), 5) for x in [1.0 / trainer.returns.deviation]}
    np.testing.assert_allclose(own[4], [-gain / 2, gain, -gain / 2, 0.0, 0.0, 0.0], atol=1e-4)


def test_twins_face_the_same_traffic(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[list[int]] = []
    start = ServingBatch.start
    monkeypatch.setattr(ServingBatch, "start", lambda self, some: seeds.append(list(some)) or start(self, some))
    ppo.train(tiny(task, num_envs=8, twins=4, steps=1, validate_every=2))
    first = seeds[0] + seeds[1]  # two parts, and twins are not parted
    assert [len(set(first[:4])), len(set(first[4:])), len(set(first))] == [1, 1, 2]
    assert ppo.PPOConfig(steps=120_000, twins=4).envs(120) == 8
    with pytest.raises(InvalidInputError, match="num_envs: must be a multiple of twins, 4"):
        ppo.PPOConfig(num_envs=10, twins=4)


def test_an_episodes_end_is_a_time_limit(task: str) -> None:
    """With values that are right, nothing is an advantage: the last one stands for what would have come."""
    trainer = ppo.Trainer(tiny(task, twins=1))
    rewards = np.zeros((5, 2), dtype=np.float32)
    trainer.returns.update(rewards, 0.9)
    forever = np.full((5, 2), 0.0, dtype=np.float32)
    advantages, _ = trainer._advantages(rolled(rewards), forever, forever[0])
    np.testing.assert_allclose(advantages, 0.0, atol=1e-6)
    advantages, _ = trainer._advantages(rolled(rewards), forever, forever[0] + 1.0)
    assert (advantages[-1] == np.float32(trainer.config.gamma)).all()


def test_a_trial_changes_one_of_the_dear_knobs_and_holds_both(task: str) -> None:
    """From its first window to its last what is in force stays, whatever the policy says; the other knobs stay the policy's."""
    trainer = ppo.Trainer(tiny(task, num_envs=16))
    rollout = trainer._play(0.6)
    begun = np.argwhere(rollout.drawn >= 0)
    assert len(begun) > 3
    assert not rollout.held[0].any(), "before the first window nothing is in force"
    assert 0.2 < rollout.held.mean() < 0.9
    for window, env in begun:
        knob = rollout.drawn[window, env]
        [other] = set(KEEP_KNOBS) - {knob}
        inputs = rollout.inputs[window, env][None]
        assert rollout.held[window, env]
        assert rollout.choices[window, env, knob] not in {GRID_SIZES[knob], standing(inputs)[0, knob]}
        assert rollout.choices[window, env, other] == GRID_SIZES[other]
    inside = rollout.held & (rollout.drawn < 0)
    assert all((rollout.choices[inside][:, knob] == GRID_SIZES[knob]).all() for knob in KEEP_KNOBS)
    assert not trainer._play(0.0).held.any()


def test_a_trial_that_did_better_than_expected_is_imitated_and_one_that_did_worse_is_not(task: str) -> None:
    """The same rollout, with its luck turned: only the good trial's choice becomes likelier."""

    def learnt(sign: float) -> float:
        trainer = ppo.Trainer(tiny(task, num_envs=32, twins=1, entropy=0.0, epochs=4, trial_weight=50.0))
        rollout = trainer._play(0.5)
        rollout.rewards[:] = 0.0
        window, env = np.argwhere(rollout.drawn >= 0)[0]
        rollout.drawn[:] = np.where(np.arange(32) == env, rollout.drawn, -1)
        rollout.rewards[window, env] = sign
        flat = torch.from_numpy(rollout.inputs[window, env][None])
        knob, choice = rollout.drawn[window, env], rollout.choices[window, env]

        def likelihood() -> float:
            each, _ = ppo.log_probability(
                trainer.model.logits(trainer._normalized(flat)), torch.from_numpy(choice[None])
            )
            return float(each[0, knob].detach())

        before = likelihood()
        normalizer = (trainer.normalizer.mean.copy(), trainer.normalizer.variance.copy())
        trainer._learn(rollout, 0.0)
        trainer.normalizer.mean, trainer.normalizer.variance = normalizer
        return likelihood() - before

    assert learnt(1.0) > 0.01
    assert learnt(1.0) > learnt(-1.0) + 0.01


def test_returns_are_scaled_by_their_own_deviation() -> None:
    scale, rewards = ppo.ReturnScale(), np.random.default_rng(0).normal(2.0, 1.0, (50, 8)).astype(np.float32)
    scale.update(rewards, 0.9)
    assert scale.mean == pytest.approx(float(rewards.mean()))
    slow = [
        [sum(0.9 ** (t - k) * (float(rewards[k, e]) - scale.mean) for k in range(t + 1)) for e in range(8)]
        for t in range(50)
    ]
    assert scale.deviation == pytest.approx(float(np.std(slow)), rel=1e-5)


def test_the_normaliser_has_the_mean_and_variance_of_all_that_it_saw() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(3.0, 2.0, (n, len(FEATURES))).astype(np.float32) for n in (5, 50, 500)]
    normalizer = ppo.Normalizer()
    for part in parts:
        normalizer.update(part)
    everything = np.concatenate(parts)
    np.testing.assert_allclose(normalizer.mean, everything.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(normalizer.variance, everything.var(axis=0), atol=1e-3)
    still = ppo.Normalizer()
    still.update(np.ones((100, len(FEATURES)), dtype=np.float32))
    assert (still.deviation >= 0.01).all()


def test_log_probability_and_entropy_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, sum(HEADS))).astype(np.float32)
    choices = rng.integers(0, HEADS, (20, len(HEADS)))
    logp, entropies = ppo.log_probability(torch.from_numpy(logits), torch.from_numpy(choices))
    for row in range(20):
        for head, where in enumerate(HEAD_SLICES):
            powers = [math.exp(x) for x in logits[row, where].tolist()]
            shares = [power / sum(powers) for power in powers]
            slow_entropy = -sum(share * math.log(share) for share in shares)
            assert float(logp[row, head]) == pytest.approx(math.log(shares[choices[row, head]]), abs=1e-4)
            assert float(entropies[row, head]) == pytest.approx(slow_entropy, abs=1e-4)


def test_torch_gives_the_log_probabilities_that_acting_gave(task: str) -> None:
    """The first ratio of an update is 1: the policy that learns is the one that acted."""
    trainer = ppo.Trainer(tiny(task))
    trainer.update()
    rollout = trainer._play(0.0)
    flat = rollout.inputs.reshape(-1, len(FEATURES))
    logits = trainer.model.logits(trainer._normalized(torch.from_numpy(flat))) + trainer._mask(flat)
    logp, _ = ppo.log_probability(logits, torch.from_numpy(rollout.choices.reshape(-1, len(HEADS))))
    np.testing.assert_allclose(logp.detach().numpy(), rollout.logp.reshape(-1, len(HEADS)), atol=2e-5)
    first = rollout.choices[0][:, list(KEEP_KNOBS)]
    assert (first < [GRID_SIZES[knob] for knob in KEEP_KNOBS]).all()


def test_minibatches_of_one_and_fewer_than_asked_for_are_no_trouble(task: str) -> None:
    result = ppo.train(tiny(task, num_envs=1, steps=2 * WINDOWS, minibatches=4, validation_episodes=1))
    assert all(math.isfinite(value) for update in result.updates for value in update.losses.values())
    assert all(np.isfinite(tensor).all() for tensor in result.tensors.values())
    # 6 windows in parts of 2 make 3 parts, though 4 were asked for: the mean is over those that there were.
    assert result.updates[0].losses["entropy"] == pytest.approx(sum(map(math.log, (10, 13, 9, 4, 3, 2))), rel=0.3)
    assert ppo.train(tiny(task, num_envs=1, minibatches=6, steps=WINDOWS)).steps == WINDOWS


def test_imitation_comes_before_training_and_repeats_itself(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmserve_agents.learning.imitation import demonstrations
    from llmserve_agents.policy import StaticPolicy
    from llmserve_sim.schema import ServeAction

    held = ServeAction(batch_cap=60, kv_budget_fraction=0.4, quantization_tier="INT8", speculation_depth=3)
    monkeypatch.setattr("llmserve_agents.learning.imitation.make_agent", lambda _: StaticPolicy(held))
    inputs, choices = demonstrations(load_task(task), "static", 20, np.random.default_rng(0))
    assert inputs.shape == (24, len(FEATURES))
    assert {tuple(row) for row in choices.tolist()} == {(4, 4, 3, 1, 0, 0)}
    config = tiny(task, steps=WINDOWS, num_envs=1, clone_from="static", clone_steps=600, epochs=4, learning_rate=3e-3)
    runs = [ppo.Trainer(config) for _ in range(2)]
    for trainer in runs:
        trainer._clone("static")
    assert equal(runs[0].tensors(), runs[1].tensors())
    acted = runs[0].policy().act(inputs)
    assert (acted == choices).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("seed", -1), ("seed", 2**32), ("num_envs", -1), ("num_envs", 5000), ("learning_rate", -1e-3),
        ("gamma", 1.0), ("gae_lambda", 1.1), ("clip", 0.0), ("epochs", 0), ("minibatches", 0), ("entropy", -0.1),
        ("value_weight", -1.0), ("max_grad_norm", 0.0), ("hidden", 0), ("keep_bias", math.inf), ("validate_every", 0),
        ("validation_episodes", 0), ("clone_steps", 0), ("threads", 0), ("learning_rate", math.nan),
    ],
)  # fmt: skip
def test_hyper_parameters_out_of_bounds_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"^{name}: must be in") as refused:
        ppo.PPOConfig(**{name: value})
    assert refused.value.field == name


@pytest.mark.parametrize(("steps", "envs"), [(3_000_000, 96), (120_000, 10), (1, 8), (10**9, 96)])
def test_short_runs_have_fewer_environments_and_so_more_updates(steps: int, envs: int) -> None:
    assert ppo.PPOConfig(steps=steps).envs(120) == envs
    assert ppo.PPOConfig(steps=steps, num_envs=5, twins=5).envs(120) == 5


def test_before_an_update_there_is_no_result(task: str) -> None:
    with pytest.raises(InvalidInputError, match="steps: must be enough for an update"):
        ppo.Trainer(tiny(task)).result()
