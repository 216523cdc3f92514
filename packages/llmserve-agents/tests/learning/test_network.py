"""The network in numpy: its choices, what is masked, and that it is torch's network to the last digits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from llmserve_agents.learning.features import FEATURES
from llmserve_agents.learning.network import (
    HEAD_SIZES,
    HEAD_SLICES,
    INPUT_CLIP,
    KEEP_KNOBS,
    KEEP_LOGITS,
    MLPPolicy,
    is_configured,
    to_grid,
)
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import GRID_SIZES, PREFILL_DECODE_SPLIT, QUANTIZATION_TIER
from llmserve_sim.metrics import observation_names

NAMES = observation_names("extended")
TIERS = [NAMES.index(name) for name in ("tier_fp16", "tier_int8", "tier_int4")]
HIDDEN = 16


def tensors(seed: int = 0, scale: float = 0.3) -> dict[str, Any]:
    """A checkpoint that nobody trained."""
    rng = np.random.default_rng(seed)
    shapes = ((HIDDEN, len(FEATURES)), (HIDDEN, HIDDEN), (sum(HEAD_SIZES), HIDDEN))
    found: dict[str, Any] = {}
    for layer, shape in enumerate(shapes):
        found[f"actor.{layer}.weight"] = rng.normal(0, scale, shape).astype(np.float32)
        found[f"actor.{layer}.bias"] = rng.normal(0, scale, shape[0]).astype(np.float32)
    found["normalizer.mean"] = rng.random(len(FEATURES)).astype(np.float32)
    found["normalizer.std"] = (0.1 + rng.random(len(FEATURES))).astype(np.float32)
    return found


def seen(count: int, *, tier: int | None = 1, split: bool = False, seed: int = 1) -> np.ndarray:
    """Inputs under a tier in force, or before the first action."""
    inputs = np.random.default_rng(seed).random((count, len(FEATURES))).astype(np.float32)
    inputs[:, TIERS] = 0.0
    if tier is not None:
        inputs[:, TIERS[tier]] = 1.0
    inputs[:, NAMES.index("split")] = split
    return inputs


def keeping(tensors: dict[str, Any], by: float = 100.0) -> dict[str, Any]:
    """The same, with KEEP the likeliest of all."""
    tensors["actor.2.bias"][list(KEEP_LOGITS)] += by
    return tensors


def softmax(row: np.ndarray) -> list[float]:
    """As it is written down."""
    powers = [math.exp(float(x) - float(row.max())) for x in row]
    return [power / sum(powers) for power in powers]


def test_heads_have_a_choice_for_each_point_of_the_grid_and_keep_where_a_change_costs_seconds() -> None:
    assert HEAD_SIZES == (10, 13, 9, 4, 3, 2)
    assert KEEP_KNOBS == (QUANTIZATION_TIER, PREFILL_DECODE_SPLIT)
    assert [where.stop - where.start for where in HEAD_SLICES] == list(HEAD_SIZES)
    assert [HEAD_SLICES[knob].stop - 1 for knob in KEEP_KNOBS] == list(KEEP_LOGITS)


@pytest.mark.parametrize("tier", [0, 1, 2])
@pytest.mark.parametrize("split", [False, True])
def test_keep_means_what_is_in_force(tier: int, split: bool) -> None:
    policy = MLPPolicy.from_tensors(keeping(tensors()), can_split=True)
    indices = policy.act(seen(50, tier=tier, split=split))
    assert set(indices[:, QUANTIZATION_TIER]) == {tier}
    assert set(indices[:, PREFILL_DECODE_SPLIT]) == {int(split)}


def test_keep_is_told_apart_row_by_row_and_other_choices_stand() -> None:
    inputs = np.concatenate([seen(1, tier=0), seen(1, tier=2, split=True), seen(1, tier=1)])
    choices = np.array([[1, 2, 3, 3, 2, 0], [4, 5, 6, 3, 2, 1], [7, 8, 1, 0, 0, 1]])
    expected = [[1, 2, 3, 0, 0, 0], [4, 5, 6, 2, 1, 1], [7, 8, 1, 0, 0, 1]]
    before = choices.copy()
    assert to_grid(choices, inputs).tolist() == expected
    assert (choices == before).all()


def test_keep_is_impossible_before_anything_is_in_force() -> None:
    policy = MLPPolicy.from_tensors(keeping(tensors()), can_split=True)
    inputs = seen(200, tier=None)
    assert not is_configured(inputs).any()
    assert is_configured(seen(3)).all()
    choices, _ = policy.sample(inputs, np.random.default_rng(0))
    assert (choices[:, list(KEEP_KNOBS)] < [GRID_SIZES[knob] for knob in KEEP_KNOBS]).all()
    assert (policy.act(inputs) < GRID_SIZES).all()


def test_a_deployment_that_cannot_split_never_does() -> None:
    found = tensors()
    found["actor.2.bias"][HEAD_SLICES[PREFILL_DECODE_SPLIT].start + 1] += 100.0
    inputs = seen(100)
    able, unable = (MLPPolicy.from_tensors(found, can_split=can) for can in (True, False))
    assert able.act(inputs)[:, PREFILL_DECODE_SPLIT].all()
    assert not unable.act(inputs)[:, PREFILL_DECODE_SPLIT].any()
    choices, _ = unable.sample(inputs, np.random.default_rng(0))
    assert not to_grid(choices, inputs)[:, PREFILL_DECODE_SPLIT].any()


def test_the_likeliest_choice_of_each_head_is_taken() -> None:
    policy, inputs = MLPPolicy.from_tensors(tensors(), can_split=True), seen(30)
    logits, indices = policy.logits(inputs), policy.act(inputs)
    for row in range(30):
        for head, where in enumerate(HEAD_SLICES):
            best = max(range(HEAD_SIZES[head]), key=lambda i: logits[row, where][i])
            kept = best == GRID_SIZES[head]
            assert indices[row, head] == ({QUANTIZATION_TIER: 1, PREFILL_DECODE_SPLIT: 0}[head] if kept else best)


def test_the_logits_are_those_of_a_slow_forward_pass() -> None:
    found, [row] = tensors(), seen(1)
    x = [
        min(max((float(a) - float(m)) / float(s), -INPUT_CLIP), INPUT_CLIP)
        for a, m, s in zip(row, found["normalizer.mean"], found["normalizer.std"], strict=True)
    ]
    for layer in range(3):
        weight, bias = found[f"actor.{layer}.weight"], found[f"actor.{layer}.bias"]
        x = [
            sum(float(w) * a for w, a in zip(line, x, strict=True)) + float(b)
            for line, b in zip(weight, bias, strict=True)
        ]
        x = [math.tanh(a) for a in x] if layer < 2 else x
    np.testing.assert_allclose(MLPPolicy.from_tensors(found, can_split=True).logits(row[None])[0], x, atol=1e-5)


def test_sampling_follows_the_softmax_of_every_head() -> None:
    policy, draws = MLPPolicy.from_tensors(tensors(scale=0.6), can_split=False), 20_000
    inputs = np.repeat(seen(1), draws, axis=0)
    choices, _ = policy.sample(inputs, np.random.default_rng(2))
    logits = policy.logits(inputs[:1])[0]
    for head, where in enumerate(HEAD_SLICES):
        shares = np.bincount(choices[:, head], minlength=HEAD_SIZES[head]) / draws
        np.testing.assert_allclose(shares, softmax(logits[where]), atol=4 * 0.5 / draws**0.5)


def test_every_head_has_the_log_probability_of_its_softmax() -> None:
    policy = MLPPolicy.from_tensors(tensors(scale=0.6), can_split=False)
    inputs = np.concatenate([seen(40), seen(40, tier=None)])
    choices, logprobs = policy.sample(inputs, np.random.default_rng(3))
    logits = policy.logits(inputs)
    for row in range(80):
        parts = [math.log(softmax(logits[row, where])[choices[row, head]]) for head, where in enumerate(HEAD_SLICES)]
        assert logprobs[row] == pytest.approx(parts, abs=1e-4)


def test_sampling_repeats_itself_for_a_seed() -> None:
    policy, inputs = MLPPolicy.from_tensors(tensors(), can_split=True), seen(20)
    first, second, other = (policy.sample(inputs, np.random.default_rng(seed))[0] for seed in (5, 5, 6))
    assert (first == second).all()
    assert (first != other).any()


def test_numpy_and_torch_agree_on_ten_thousand_inputs() -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the extra 'train'")
    found = tensors()
    inputs = np.concatenate([seen(5_000), seen(5_000, tier=None, seed=2)])
    ours = MLPPolicy.from_tensors(found, can_split=True).logits(inputs)
    given = {name: torch.from_numpy(value) for name, value in found.items()}
    x = torch.from_numpy(inputs)
    x = ((x - given["normalizer.mean"]) / given["normalizer.std"]).clamp(-INPUT_CLIP, INPUT_CLIP)
    for layer in range(3):
        x = torch.nn.functional.linear(x, given[f"actor.{layer}.weight"], given[f"actor.{layer}.bias"])
        x = torch.tanh(x) if layer < 2 else x
    for head, where in enumerate(HEAD_SLICES):
        # Probabilities, not logits: what is masked has a logit that means nothing.
        row = x[:, where].clone()
        if head in KEEP_KNOBS:
            row[5_000:, -1] = -1e9
        theirs = torch.softmax(row, dim=1).numpy()
        mine = np.exp(ours[:, where] - ours[:, where].max(axis=1, keepdims=True))
        np.testing.assert_allclose(mine / mine.sum(axis=1, keepdims=True), theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("normalizer.mean", lambda t: t[:-1]),
        ("normalizer.std", lambda t: t * 0),
        ("normalizer.std", lambda t: t.astype(np.float64)),
        ("actor.0.weight", lambda t: t[:, :-1]),
        ("actor.0.bias", lambda t: t[:-1]),
        ("actor.1.weight", lambda t: t[0]),
        ("actor.1.bias", lambda t: t * np.float32(np.nan)),
        ("actor.2.weight", lambda t: t[:-1]),
        ("actor.2.bias", None),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(name: str, change: Any) -> None:
    found = tensors()
    if change is None:
        del found[name]
    else:
        found[name] = change(found[name])
    with pytest.raises(InvalidInputError) as refused:
        MLPPolicy.from_tensors(found, can_split=True)
    assert refused.value.field.split(".")[0] == name.split(".", maxsplit=1)[0]
    assert name.startswith("normalizer") or refused.value.field.split(".")[1] == name.split(".")[1]


def test_a_last_layer_for_other_heads_is_refused() -> None:
    found = tensors()
    found["actor.2.weight"], found["actor.2.bias"] = found["actor.2.weight"][:-1], found["actor.2.bias"][:-1]
    with pytest.raises(InvalidInputError, match=r"actor\.2\.weight: must have 41 rows"):
        MLPPolicy.from_tensors(found, can_split=True)
