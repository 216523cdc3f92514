"""Proximal policy optimisation: it repeats itself, goes on where it was interrupted, and learns what is obvious."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmserve_agents.errors import MissingExtraError
from llmserve_agents.learning.agent import play
from llmserve_agents.learning.config import PPOConfig
from llmserve_agents.learning.features import FEATURES
from llmserve_agents.learning.network import HEAD_SIZES, HEAD_SLICES, KEEP_KNOBS, MLPPolicy, configuration_in_force
from llmserve_agents.learning.normalization import InputNormalizer, RewardNormalizer
from llmserve_agents.learning.rollout import Rollout
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import GRID_SIZES
from llmserve_sim.tasks import load_task

torch = pytest.importorskip("torch", reason="torch comes with the extra 'train'")
pytest.importorskip(
    "llmserve_agents.learning.trainer", reason="training needs the extra 'train'", exc_type=MissingExtraError
)
from llmserve_agents.learning.actor_critic import Tanh, log_prob_and_entropy  # noqa: E402 - after torch is known to be there
from llmserve_agents.learning.trainer import Trainer, train, validation_seeds  # noqa: E402

WINDOWS = 6


@pytest.fixture
def task(short_task: Path) -> str:
    return str(short_task)


def tiny(task: str, **changes: Any) -> Any:
    """A run of seconds: 4 updates of 4 episodes."""
    sizes: dict[str, Any] = {
        "task": task, "steps": 4 * 4 * WINDOWS, "num_envs": 4, "group_size": 1, "hidden": 8, "epochs": 2, "minibatches": 3,
        "validate_every": 2, "validation_episodes": 3,
    }  # fmt: skip
    return PPOConfig(**sizes | changes)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def told(update: Any) -> tuple[Any, ...]:
    """What an update says, but for the time that it took."""
    return (update.number, update.steps, update.episodic_return, update.validation, update.best, update.losses)


def test_a_run_repeats_itself_for_a_seed_and_differs_for_another(task: str) -> None:
    first, second, other = (train(tiny(task, seed=seed)) for seed in (1, 1, 2))
    assert equal(first.tensors, second.tensors)
    assert [told(update) for update in first.updates] == [told(update) for update in second.updates]
    assert not equal(first.tensors, other.tensors)


@pytest.mark.parametrize("sizes", [{}, {"num_envs": 20, "minibatches": 6, "hidden": 128, "steps": 180 * WINDOWS}])
def test_threads_change_nothing(task: str, sizes: dict[str, int]) -> None:
    """Products of a few rows come out of the libraries in the last digits as their threads have it: there are none but ours."""
    assert equal(train(tiny(task, threads=2, **sizes)).tensors, train(tiny(task, **sizes)).tensors)


def test_threads_of_torch_change_nothing_and_are_left_as_they_were(task: str) -> None:
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(train(tiny(task, hidden=128, clone_from="static", clone_steps=600)).tensors)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert equal(*runs)


def test_a_step_goes_down_the_gradient_of_the_whole_minibatch(task: str) -> None:
    """Computed in shards, the gradient is that of the textbook's loss over all rows."""
    trainer = Trainer(tiny(task, num_envs=7, entropy=0.01))
    learner = trainer.learner
    batch, _ = learner._make_batch(trainer._collect(0.4))
    with torch.no_grad():  # a policy that has moved on since it acted: ratios on both sides of the clip
        for parameter in learner.model.actor.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    parameters = list(learner.model.parameters())
    mb_advantages = (batch.advantages - batch.advantages.mean()) / batch.advantages.std()
    total, ratios = torch.zeros(()), []
    for row in range(len(batch)):
        logits = (learner.model.logits(batch.inputs[row : row + 1]) + batch.action_mask[row])[0]
        heads = [torch.distributions.Categorical(logits=logits[where]) for where in HEAD_SLICES]
        logprob = torch.stack([head.log_prob(batch.actions[row, knob]) for knob, head in enumerate(heads)])
        ratio = ((logprob - batch.logprobs[row]) * batch.on_policy[row]).sum().exp()
        ratios.append(float(ratio.detach()))
        total -= torch.min(ratio * mb_advantages[row], ratio.clamp(0.8, 1.2) * mb_advantages[row])
        if batch.trial_knob[row] >= 0:
            total -= trainer.config.trial_weight * mb_advantages[row].clamp(min=0) * logprob[batch.trial_knob[row]]
        total -= 0.01 * sum(
            on_policy * head.entropy() for on_policy, head in zip(batch.on_policy[row], heads, strict=True)
        )
        error = learner.model.value(batch.inputs[row : row + 1])[0] - batch.returns[row]
        total += trainer.config.value_weight * 0.5 * error.square()
    assert min(ratios) < 0.8
    assert max(ratios) > 1.2
    slow = torch.autograd.grad(total / len(batch), parameters)
    norm = torch.sqrt(sum(gradient.square().sum() for gradient in slow))
    learner._step(batch, 0.01)
    bound = min(1.0, trainer.config.max_grad_norm / float(norm))
    for parameter, gradient in zip(parameters, slow, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), bound * gradient.numpy(), atol=2e-5)


def test_the_quick_tanh_is_tanh_and_has_its_gradient() -> None:
    x = torch.linspace(-12.0, 12.0, 2001, requires_grad=True)
    y = Tanh.apply(x)
    np.testing.assert_allclose(y.detach().numpy(), np.tanh(x.detach().numpy().astype(float)), atol=2e-7)
    [gradient] = torch.autograd.grad(y.sum(), x)
    np.testing.assert_allclose(gradient.numpy(), 1.0 - np.tanh(x.detach().numpy().astype(float)) ** 2, atol=5e-7)


def test_matrix_products_keep_to_one_thread(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for small products take more time than the products."""
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    seen: list[set[int]] = []
    collect = Trainer._collect
    monkeypatch.setattr(Trainer, "_collect", lambda trainer, share: seen.append(threads()) or collect(trainer, share))
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        train(tiny(task, steps=1))
        assert threads() == before
    assert seen == [{1}]


def test_training_leaves_the_global_generator_of_torch_alone(task: str) -> None:
    before = torch.get_rng_state()
    train(tiny(task))
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_run_ends_as_it_would_have(task: str, tmp_path: Path, after: int) -> None:
    whole = train(tiny(task))
    begun = Trainer(tiny(task))
    for _ in range(after):
        begun.update()
    begun.save(tmp_path / "state.pt")
    resumed = Trainer.resume(tmp_path / "state.pt").run()
    assert equal(resumed.tensors, whole.tensors)
    assert (resumed.validation, resumed.steps, resumed.best_steps) == (whole.validation, whole.steps, whole.best_steps)
    assert [told(update) for update in resumed.updates] == [told(update) for update in whole.updates]


def test_the_time_of_a_resumed_run_goes_on(task: str, tmp_path: Path) -> None:
    begun = Trainer(tiny(task))
    begun._start_time -= 1000.0
    begun.update()
    begun.save(tmp_path / "state.pt")
    assert Trainer.resume(tmp_path / "state.pt").update().seconds > 1000.0


def test_a_finished_run_that_is_resumed_is_finished(task: str, tmp_path: Path) -> None:
    trainer = Trainer(tiny(task))
    whole = trainer.run()
    trainer.save(tmp_path / "state.pt")
    again = Trainer.resume(tmp_path / "state.pt").run()
    assert equal(again.tensors, whole.tensors)
    assert again.steps == whole.steps


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + bytes(40)])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InvalidInputError, match="resume: must be the state of a training run"):
        Trainer.resume(tmp_path / "state.pt")


@pytest.mark.parametrize("content", [[], {}, {"config": {"nonsense": 1}}, {"config": {}}])
def test_a_state_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(InvalidInputError, match="resume: must be the state of a training run"):
        Trainer.resume(tmp_path / "state.pt")


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    torch.save({"config": _Trap(tmp_path / "trace")}, tmp_path / "state.pt")
    with pytest.raises(InvalidInputError, match="resume"):
        Trainer.resume(tmp_path / "state.pt")
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
    result = train(config)
    assert result.updates[0].episodic_return < chance + 0.1
    assert result.validation > 0.9


class _Rewarded:
    """An outcome with another reward."""

    def __init__(self, outcome: Any, reward: Any) -> None:
        self.measurement, self.done, self.reward = outcome.measurement, outcome.done, reward


def test_the_best_by_validation_is_kept(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, kept = iter([0.3, 0.7, 0.5]), []
    monkeypatch.setattr(Trainer, "validate", lambda self: kept.append(self.learner.tensors()) or next(values))
    result = train(tiny(task, steps=6 * 4 * WINDOWS))
    assert (result.validation, result.best_steps, result.steps) == (0.7, 4 * 4 * WINDOWS, 6 * 4 * WINDOWS)
    assert equal(result.tensors, kept[1])
    assert [update.validation for update in result.updates] == [None, 0.3, None, 0.7, None, 0.5]
    assert [update.best for update in result.updates] == [None, 0.3, 0.3, 0.7, 0.7, 0.7]


def test_the_last_update_is_always_validated(task: str) -> None:
    result = train(tiny(task, validate_every=100))
    assert [update.validation is None for update in result.updates] == [True, True, True, False]


def test_what_is_kept_is_the_policy_that_was_validated(task: str) -> None:
    result = train(tiny(task))
    found = load_task(task)
    policy = MLPPolicy.from_tensors(result.tensors, can_split=ServingBatch(found, 1).can_split)
    assert play(policy, found, validation_seeds(found, 3)).mean() == pytest.approx(result.validation, abs=0)


def test_seeds_of_training_and_of_validation_keep_to_their_ranges(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    start = ServingBatch.start
    monkeypatch.setattr(ServingBatch, "start", lambda self, some: seeds.extend(some) or start(self, some))
    train(tiny(task, validate_every=4))
    ranges = load_task(task).seeds
    trained, validated = seeds[:16], seeds[16:]
    assert all(ranges.train.start <= seed < ranges.train.stop for seed in trained)
    assert len(set(trained)) > 8
    assert validated == list(range(ranges.validation.start, ranges.validation.start + 3))


def rolled(rewards: np.ndarray, trial_knob: np.ndarray | None = None) -> Rollout:
    """A rollout with these rewards [windows, envs], and nothing else in it."""
    nothing = np.full(rewards.shape, -1) if trial_knob is None else trial_knob
    blank = np.zeros((*rewards.shape, 1), dtype=np.float32)
    return Rollout(
        actions=blank.astype(np.int64),
        trial_knob=nothing,
        inputs=blank,
        logprobs=blank,
        rewards=rewards,
        next_inputs=blank[0],
        in_trial=nothing >= 0,
    )


def test_advantages_are_those_of_the_slow_definition(task: str) -> None:
    """Up to a trial's beginning, after which nothing counts for the choices before."""
    trainer = Trainer(tiny(task, gamma=0.9, gae_lambda=0.8, num_envs=3, group_size=1))
    rng = np.random.default_rng(0)
    rewards, values = (rng.normal(size=(7, 3)).astype(np.float32) for _ in range(2))
    last = rng.normal(size=3).astype(np.float32)
    trial_knob = np.full((7, 3), -1)
    trial_knob[4, 1], trial_knob[2, 2] = 3, 4
    advantages, returns = trainer.learner._advantages(rolled(rewards, trial_knob), values, last)
    scaled = (rewards - trainer.learner.reward_normalizer.mean) / trainer.learner.reward_normalizer.std
    for env, ends in enumerate(([7] * 7, [4, 4, 4, 4, 7, 7, 7], [2, 2, 7, 7, 7, 7, 7])):
        v = [*values[:, env].tolist(), float(last[env])]
        deltas = [float(scaled[t, env]) + 0.9 * v[t + 1] - v[t] for t in range(7)]
        for t in range(7):
            slow = sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in range(t, ends[t]))
            assert advantages[t, env] == pytest.approx(slow, abs=1e-5)
            assert returns[t, env] == pytest.approx(slow + v[t], abs=1e-5)


def test_what_happens_to_a_whole_group_is_no_advantage(task: str) -> None:
    """A wave that all episodes of a group meet is no advantage; what one of a group earns beyond the others is."""
    trainer = Trainer(tiny(task, num_envs=6, group_size=3))
    values, last = np.zeros((5, 6), dtype=np.float32), np.zeros(6, dtype=np.float32)
    wave = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    shared, returns = trainer.learner._advantages(rolled(wave.repeat(3, axis=1)), values, last)
    np.testing.assert_allclose(shared, 0.0, atol=1e-5)
    assert np.abs(returns).max() > 0.1, "the critic learns from it all the same"
    luck = wave.repeat(3, axis=1)
    luck[4, 1] += 1.0
    own, _ = trainer.learner._advantages(rolled(luck), values, last)
    [gain] = {round(float(x), 5) for x in [1.0 / trainer.learner.reward_normalizer.std]}
    np.testing.assert_allclose(own[4], [-gain / 2, gain, -gain / 2, 0.0, 0.0, 0.0], atol=1e-4)


def test_a_group_faces_the_same_traffic(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[list[int]] = []
    start = ServingBatch.start
    monkeypatch.setattr(ServingBatch, "start", lambda self, some: seeds.append(list(some)) or start(self, some))
    train(tiny(task, num_envs=8, group_size=4, steps=1, validate_every=2))
    first = seeds[0] + seeds[1]  # two shards, and a group stays in one
    assert [len(set(first[:4])), len(set(first[4:])), len(set(first))] == [1, 1, 2]
    assert PPOConfig(steps=120_000, group_size=4).resolve_num_envs(120) == 8
    with pytest.raises(InvalidInputError, match="num_envs: must be a multiple of group_size, 4"):
        PPOConfig(num_envs=10, group_size=4)


def test_an_episodes_end_is_a_time_limit(task: str) -> None:
    """With values that are right, nothing is an advantage: the last one stands for what would have come."""
    trainer = Trainer(tiny(task, group_size=1))
    rewards = np.zeros((5, 2), dtype=np.float32)
    trainer.learner.reward_normalizer.update(rewards, 0.9)
    forever = np.full((5, 2), 0.0, dtype=np.float32)
    advantages, _ = trainer.learner._advantages(rolled(rewards), forever, forever[0])
    np.testing.assert_allclose(advantages, 0.0, atol=1e-6)
    advantages, _ = trainer.learner._advantages(rolled(rewards), forever, forever[0] + 1.0)
    assert (advantages[-1] == np.float32(trainer.config.gamma)).all()


def test_a_trial_changes_one_of_the_dear_knobs_and_holds_both(task: str) -> None:
    """From its first window to its last what is in force stays, whatever the policy says; the other knobs stay the policy's."""
    trainer = Trainer(tiny(task, num_envs=16))
    rollout = trainer._collect(0.6)
    begun = np.argwhere(rollout.trial_knob >= 0)
    assert len(begun) > 3
    assert not rollout.in_trial[0].any(), "before the first window nothing is in force"
    assert 0.2 < rollout.in_trial.mean() < 0.9
    for window, env in begun:
        knob = rollout.trial_knob[window, env]
        [other] = set(KEEP_KNOBS) - {knob}
        inputs = rollout.inputs[window, env][None]
        assert rollout.in_trial[window, env]
        assert rollout.actions[window, env, knob] not in {GRID_SIZES[knob], configuration_in_force(inputs)[0, knob]}
        assert rollout.actions[window, env, other] == GRID_SIZES[other]
    inside = rollout.in_trial & (rollout.trial_knob < 0)
    assert all((rollout.actions[inside][:, knob] == GRID_SIZES[knob]).all() for knob in KEEP_KNOBS)
    assert not trainer._collect(0.0).in_trial.any()


def test_a_trial_that_did_better_than_expected_is_imitated_and_one_that_did_worse_is_not(task: str) -> None:
    """The same rollout, with its luck turned: only the good trial's choice becomes likelier."""

    def learnt(sign: float) -> float:
        trainer = Trainer(tiny(task, num_envs=32, group_size=1, entropy=0.0, epochs=4, trial_weight=50.0))
        rollout = trainer._collect(0.5)
        rollout.rewards[:] = 0.0
        window, env = np.argwhere(rollout.trial_knob >= 0)[0]
        rollout.trial_knob[:] = np.where(np.arange(32) == env, rollout.trial_knob, -1)
        rollout.rewards[window, env] = sign
        flat = rollout.inputs[window, env][None]
        knob, choice = rollout.trial_knob[window, env], rollout.actions[window, env]

        def likelihood() -> float:
            each, _ = log_prob_and_entropy(
                trainer.learner.model.logits(trainer.learner._normalize(flat)), torch.from_numpy(choice[None])
            )
            return float(each[0, knob].detach())

        before = likelihood()
        normalizer = (trainer.learner.input_normalizer.mean.copy(), trainer.learner.input_normalizer.variance.copy())
        trainer.learner.update(rollout, learning_rate=trainer.config.learning_rate, ent_coef=0.0)
        learner = trainer.learner
        learner.input_normalizer.mean, learner.input_normalizer.variance = normalizer
        return likelihood() - before

    assert learnt(1.0) > 0.01
    assert learnt(1.0) > learnt(-1.0) + 0.01


def test_returns_are_scaled_by_their_own_deviation() -> None:
    scale, rewards = RewardNormalizer(), np.random.default_rng(0).normal(2.0, 1.0, (50, 8)).astype(np.float32)
    scale.update(rewards, 0.9)
    assert scale.mean == pytest.approx(float(rewards.mean()))
    slow = [
        [sum(0.9 ** (t - k) * (float(rewards[k, e]) - scale.mean) for k in range(t + 1)) for e in range(8)]
        for t in range(50)
    ]
    assert scale.std == pytest.approx(float(np.std(slow)), rel=1e-5)


def test_the_normaliser_has_the_mean_and_variance_of_all_that_it_saw() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(3.0, 2.0, (n, len(FEATURES))).astype(np.float32) for n in (5, 50, 500)]
    normalizer = InputNormalizer()
    for part in parts:
        normalizer.update(part)
    everything = np.concatenate(parts)
    np.testing.assert_allclose(normalizer.mean, everything.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(normalizer.variance, everything.var(axis=0), atol=1e-3)
    still = InputNormalizer()
    still.update(np.ones((100, len(FEATURES)), dtype=np.float32))
    assert (still.std >= 0.01).all()


def test_log_probability_and_entropy_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, sum(HEAD_SIZES))).astype(np.float32)
    choices = rng.integers(0, HEAD_SIZES, (20, len(HEAD_SIZES)))
    logp, entropies = log_prob_and_entropy(torch.from_numpy(logits), torch.from_numpy(choices))
    for row in range(20):
        for head, where in enumerate(HEAD_SLICES):
            powers = [math.exp(x) for x in logits[row, where].tolist()]
            shares = [power / sum(powers) for power in powers]
            slow_entropy = -sum(share * math.log(share) for share in shares)
            assert float(logp[row, head]) == pytest.approx(math.log(shares[choices[row, head]]), abs=1e-4)
            assert float(entropies[row, head]) == pytest.approx(slow_entropy, abs=1e-4)


def test_torch_gives_the_log_probabilities_that_acting_gave(task: str) -> None:
    """The first ratio of an update is 1: the policy that learns is the one that acted."""
    trainer = Trainer(tiny(task))
    trainer.update()
    rollout = trainer._collect(0.0)
    flat = rollout.inputs.reshape(-1, len(FEATURES))
    logits = trainer.learner.model.logits(trainer.learner._normalize(flat)) + trainer.learner._action_mask(flat)
    logp, _ = log_prob_and_entropy(logits, torch.from_numpy(rollout.actions.reshape(-1, len(HEAD_SIZES))))
    np.testing.assert_allclose(logp.detach().numpy(), rollout.logprobs.reshape(-1, len(HEAD_SIZES)), atol=2e-5)
    first = rollout.actions[0][:, list(KEEP_KNOBS)]
    assert (first < [GRID_SIZES[knob] for knob in KEEP_KNOBS]).all()


def test_minibatches_of_one_and_fewer_than_asked_for_are_no_trouble(task: str) -> None:
    result = train(tiny(task, num_envs=1, steps=2 * WINDOWS, minibatches=4, validation_episodes=1))
    assert all(math.isfinite(value) for update in result.updates for value in update.losses.values())
    assert all(np.isfinite(tensor).all() for tensor in result.tensors.values())
    # 6 windows in parts of 2 make 3 parts, though 4 were asked for: the mean is over those that there were.
    assert result.updates[0].losses["entropy"] == pytest.approx(sum(map(math.log, (10, 13, 9, 4, 3, 2))), rel=0.3)
    assert train(tiny(task, num_envs=1, minibatches=6, steps=WINDOWS)).steps == WINDOWS


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
    runs = [Trainer(config) for _ in range(2)]
    for trainer in runs:
        trainer._clone("static")
    assert equal(runs[0].learner.tensors(), runs[1].learner.tensors())
    acted = runs[0].learner.policy().act(inputs)
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
        PPOConfig(**{name: value})
    assert refused.value.field == name


@pytest.mark.parametrize(("steps", "envs"), [(3_000_000, 96), (120_000, 10), (1, 8), (10**9, 96)])
def test_short_runs_have_fewer_environments_and_so_more_updates(steps: int, envs: int) -> None:
    assert PPOConfig(steps=steps).resolve_num_envs(120) == envs
    assert PPOConfig(steps=steps, num_envs=5, group_size=5).resolve_num_envs(120) == 5


def test_before_an_update_there_is_no_result(task: str) -> None:
    with pytest.raises(InvalidInputError, match="steps: must be enough for an update"):
        Trainer(tiny(task)).result()
