"""A training run with its files, and the command: what is written, resumed, compared and refused."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from llmserve_agents import cli
from llmserve_agents.errors import MissingExtraError
from llmserve_agents.learning.agent import PPOPolicy, play
from llmserve_agents.learning.checkpoint import identity, read
from llmserve_agents.learning.config import PPOConfig, option_of, with_current_names
from llmserve_agents.policy import StaticPolicy
from llmserve_agents.references import run_agent
from llmserve_agents.weights import CARD, POLICY
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.references import load_references
from llmserve_sim.tasks import load_task

torch = pytest.importorskip("torch", reason="torch comes with the extra 'train'")
trainer = pytest.importorskip(
    "llmserve_agents.learning.trainer", reason="training needs the extra 'train'", exc_type=MissingExtraError
)
training = pytest.importorskip("llmserve_agents.learning.training", reason="as above", exc_type=MissingExtraError)

ROOT = Path(__file__).resolve().parents[4]
TASK = "bursty_workload"
CARDS = sorted((*ROOT.glob("weights/*/card.json"), *ROOT.glob("weights/*/seeds/*/card.json")))
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard comes with the extra 'train'"
)
TINY = {
    "num_envs": 2,
    "group_size": 2,
    "hidden": 8,
    "epochs": 1,
    "minibatches": 2,
    "validate_every": 1,
    "validation_episodes": 2,
}
OPTIONS = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
UPDATE = 2 * 120
"""Windows of an update."""


def config(**changes: Any) -> Any:
    return PPOConfig(**{"task": TASK, "steps": 2 * UPDATE} | TINY | changes)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished run's folder and result; nothing in it may be changed."""
    output = tmp_path_factory.mktemp("run") / "new" / "folder"
    return output, training.run(config(), output, tensorboard=False)


def test_everything_is_written(kept: tuple[Path, Any]) -> None:
    output, result = kept
    names = {POLICY, CARD, training.STATE, "learning.json"} | ({"learning.png"} if HAS_MATPLOTLIB else set())
    assert {path.name for path in output.iterdir()} == names
    points = json.loads((output / "learning.json").read_text())
    assert points == {
        "task": TASK,
        "seed": 0,
        "points": [[update.steps, update.validation] for update in result.updates],
    }


def test_the_policy_on_disk_is_the_best_one_and_can_be_played(kept: tuple[Path, Any]) -> None:
    output, result = kept
    for name, tensor in load_file(output / POLICY).items():
        np.testing.assert_array_equal(tensor, result.tensors[name])
    assert read(output / POLICY).card["task_id"] == TASK
    policy, env = PPOPolicy(output), ServingEnv(TASK)
    [first, *_] = trainer.validation_seeds(load_task(TASK), 1)
    observation = env.reset(first)
    policy.reset(TASK, first)
    while not observation.done:
        observation = env.step(policy.act(observation))
    alone = play(read(output / POLICY).policy, load_task(TASK), [first])[0]
    assert env.state().total_reward / 120 == pytest.approx(alone, abs=1e-12)


def test_the_card_says_what_the_weights_are_for_and_how_they_came_to_be(kept: tuple[Path, Any]) -> None:
    output, result = kept
    card = json.loads((output / CARD).read_text())
    assert card.items() >= identity(load_task(TASK)).items()
    assert card["agent"] == "ppo"
    assert card["can_split"] is ServingEnv(TASK).can_split
    assert (card["seed"], card["steps"], card["best_at_steps"]) == (0, 2 * UPDATE, result.best_steps)
    assert card["train_seeds"] == [0, 1_000_000]
    assert card["validation_seeds"] == [1_000_000, 1_000_002]
    assert card["validation_mean_reward"] == result.validation
    assert card["config"] == asdict(config())


def test_the_cards_command_repeats_the_run(kept: tuple[Path, Any], tmp_path: Path) -> None:
    output, _ = kept
    [program, command, *options] = shlex.split(json.loads((output / CARD).read_text())["command"])
    assert (program, command) == ("llmserve", "train")
    assert cli.main([*options, "--output", str(tmp_path), "--no-tensorboard"], only="train") == 0
    for name in (POLICY, CARD):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes()


def test_an_interrupted_run_goes_on_and_ends_as_it_would_have(kept: tuple[Path, Any], tmp_path: Path) -> None:
    whole, _ = kept

    (interrupted(tmp_path) / POLICY).unlink()
    training.run(config(), tmp_path, resume=True, tensorboard=False)
    for name in (POLICY, CARD, "learning.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_threads_may_change_where_a_run_goes_on_and_where_it_is_repeated(
    kept: tuple[Path, Any], tmp_path: Path
) -> None:
    whole, _ = kept
    training.run(config(threads=2), interrupted(tmp_path), resume=True, tensorboard=False)
    assert (tmp_path / POLICY).read_bytes() == (whole / POLICY).read_bytes()
    training.run(config(), tmp_path, tensorboard=False)
    for name in (POLICY, CARD):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def interrupted(folder: Path, **changes: Any) -> Path:
    """A run that was stopped after its first update."""

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.run(config(**changes), folder, tensorboard=False, progress=stop)
    return folder


def test_an_interrupted_runs_card_says_how_far_it_came(tmp_path: Path) -> None:
    assert json.loads((interrupted(tmp_path) / CARD).read_text())["steps"] == UPDATE


def test_an_interrupted_run_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    state = (interrupted(tmp_path) / training.STATE).read_bytes()
    with pytest.raises(InvalidInputError, match=r"output: holds a run that was interrupted: go on with --resume"):
        training.run(config(), tmp_path, tensorboard=False)
    assert (tmp_path / training.STATE).read_bytes() == state
    training.run(config(steps=UPDATE), tmp_path, overwrite=True, tensorboard=False)
    assert json.loads((tmp_path / CARD).read_text())["config"]["steps"] == UPDATE


def test_a_finished_run_is_repeated_and_another_takes_its_place_only_where_that_is_asked_for(tmp_path: Path) -> None:
    training.run(config(steps=UPDATE), tmp_path, tensorboard=False)
    first = (tmp_path / POLICY).read_bytes()
    training.run(config(steps=UPDATE), tmp_path, tensorboard=False)
    assert (tmp_path / POLICY).read_bytes() == first
    with pytest.raises(InvalidInputError, match="output: holds a run with another seed: name another folder"):
        training.run(config(steps=UPDATE, seed=1), tmp_path, tensorboard=False)
    assert (tmp_path / POLICY).read_bytes() == first
    training.run(config(steps=UPDATE, seed=1), tmp_path, overwrite=True, tensorboard=False)
    assert (tmp_path / POLICY).read_bytes() != first


def test_a_run_that_begins_anew_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    training.run(config(steps=UPDATE), tmp_path, tensorboard=False)

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.run(config(validate_every=2), tmp_path, overwrite=True, tensorboard=False, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_resumed_on_a_task_that_has_changed(short_task: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "run", task=str(short_task), steps=24)
    short_task.write_text(short_task.read_text().replace("windows = 6", "windows = 8"))
    with pytest.raises(InvalidInputError, match=r"task: must be what the run in .* began with"):
        training.run(config(task=str(short_task), steps=24), tmp_path / "run", resume=True, tensorboard=False)


def test_a_task_that_only_has_a_built_in_ones_name_is_refused(short_task: Path, tmp_path: Path) -> None:
    short_task.write_text(short_task.read_text().replace('id = "short"', f'id = "{TASK}"'))
    with pytest.raises(InvalidInputError, match="task: must have an id of its own"):
        training.run(config(task=str(short_task), steps=12), tmp_path / "run", tensorboard=False)
    assert not (tmp_path / "run").exists()


def test_weights_of_a_task_of_ones_own_play_it(short_task: Path, tmp_path: Path) -> None:
    training.run(config(task=str(short_task), steps=12), tmp_path / "run", tensorboard=False)
    policy, env = PPOPolicy(tmp_path / "run"), ServingEnv(load_task(short_task))
    observation = env.reset(1_000_000)
    policy.reset(env.task.id, 1_000_000)
    while not observation.done:
        observation = env.step(policy.act(observation))
    assert env.state().step_count == 6


@pytest.mark.parametrize(("name", "value"), [("steps", 9 * UPDATE), ("seed", 4), ("task", "static_workload")])
def test_a_run_is_not_resumed_as_another(kept: tuple[Path, Any], name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{name}: must be .*, as in the run that is resumed"):
        training.run(config(**{name: value}), kept[0], resume=True, tensorboard=False)


def test_a_policy_is_compared_with_chance_and_the_best_fixed_configuration(kept: tuple[Path, Any]) -> None:
    found = training.compare(load_task(TASK), kept[1])
    assert (found.episodes, found.policy) == (2, kept[1].validation)
    assert found.best_static is not None
    assert found.random < found.best_static
    assert found.random_score < 0.3


def test_the_levels_beside_the_curve_are_measured_on_the_curves_own_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, dict[str, float]] = {}
    monkeypatch.setattr(training, "draw_learning_curves", lambda *_, levels: drawn.update(levels))
    result = training.run(config(steps=UPDATE), tmp_path / "run", tensorboard=False)
    found = training.compare(load_task(TASK), result)
    assert drawn == {TASK: {"best fixed configuration": found.best_static, "random policy": found.random}}
    references = load_references(TASK, load_task(TASK).digest)
    assert references is not None
    held = StaticPolicy(references.best_static_action)
    values = run_agent(load_task(TASK), [1_000_000, 1_000_001], held).values
    assert drawn[TASK]["best fixed configuration"] == pytest.approx(values.mean(), abs=1e-12)


def test_a_task_of_ones_own_has_no_references_and_is_trained_all_the_same(short_task: Path, tmp_path: Path) -> None:
    settings = config(task=str(short_task), steps=12)
    result = training.run(settings, tmp_path / "run", tensorboard=False)
    found = training.compare(load_task(short_task), result)
    assert (found.best_static, found.score, found.random_score) == (None, None, None)
    card = json.loads((tmp_path / "run" / CARD).read_text())
    assert card["task_id"] == "short"


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that tensorboard reads with
def test_tensorboard_has_the_keys_that_dashboards_know(short_task: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = training.run(config(task=str(short_task), steps=24), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    keys = {
        "charts/episodic_return", "charts/learning_rate", "charts/SPS", "charts/validation_return",
        "losses/policy_loss", "losses/value_loss", "losses/entropy", "losses/approx_kl",
        "losses/clipfrac", "losses/explained_variance",
    }  # fmt: skip
    assert set(events.Tags()["scalars"]) == keys
    shown = events.Scalars("charts/episodic_return")
    assert [point.step for point in shown] == [update.steps for update in result.updates]
    assert [point.value for point in shown] == pytest.approx([update.episodic_return for update in result.updates])


def test_the_command_trains_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["train", "--task", TASK, "--steps", str(UPDATE), *OPTIONS, "--output", str(tmp_path), "--no-tensorboard"]
    assert cli.main(given) == 0
    shown = capsys.readouterr().out
    for word in ("240 windows: reward", "validation", "ppo", "random", "best fixed configuration", str(tmp_path)):
        assert word in shown.replace("\n", "")
    assert not (tmp_path / "tensorboard").exists()
    assert cli.main([*given, "--resume"]) == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--steps", "0"), ("--seed", "-1"), ("--num-envs", "-1"), ("--learning-rate", "7"), ("--gamma", "1"),
        ("--gae-lambda", "2"), ("--clip", "0"), ("--epochs", "0"), ("--minibatches", "0"), ("--entropy", "-1"),
        ("--value-weight", "-1"), ("--max-grad-norm", "0"), ("--hidden", "0"), ("--keep-bias", "1000"),
        ("--validate-every", "0"), ("--validation-episodes", "0"), ("--clone-from", "oracle"), ("--clone-steps", "0"),
        ("--threads", "0"), ("--task", "nonsense"), ("--steps", "many"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    given = {"--task": TASK, "--steps": str(UPDATE), "--output": str(tmp_path / "run")} | {option: value}
    assert cli.main([*(word for pair in given.items() for word in pair), "--no-tensorboard"], only="train") == 2
    told = capsys.readouterr().err
    assert option in told
    assert "Traceback" not in told


def test_resuming_nothing_is_refused_by_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--task", TASK, "--output", str(tmp_path), "--resume"], only="train") == 2
    assert "--resume: needs a run to go on with" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["--task", TASK, "--output", str(tmp_path / "none"), "--resume"], only="train") == 2
    assert not (tmp_path / "none").exists()


def test_resuming_with_other_options_is_refused_by_the_option(
    kept: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--task", TASK, "--steps", "9999", *OPTIONS, "--output", str(kept[0]), "--resume", "--no-tensorboard"]
    assert cli.main(given, only="train") == 2
    assert "--steps: must be 480" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["--task", TASK, "--output", str(tmp_path / "file" / "run")], only="train") == 2
    assert "--output" in capsys.readouterr().err


def test_train_py_is_the_command_and_names_every_hyper_parameter() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "COLUMNS": "200"},
    )
    for name in asdict(PPOConfig()):
        assert f"--{name.replace('_', '-')}" in done.stdout
    for option in ("--output", "--resume", "--overwrite", "--no-tensorboard"):
        assert option in done.stdout


class Seen(Exception):  # noqa: N818 - it carries what was asked for
    """The configuration that the command would train."""


def configured(options: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """Return the configuration that the command makes of some options; nothing is trained."""

    def see(settings: Any, *_: Any, **__: Any) -> None:
        raise Seen(settings)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(training, "run", see)
    with pytest.raises(Seen) as seen:
        cli.main(options, only="train")
    return seen.value.args[0]


def test_the_options_defaults_are_those_of_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert configured(["--task", TASK], monkeypatch, tmp_path) == PPOConfig(task=TASK)


def test_every_option_sets_the_field_of_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = PPOConfig(
        task=TASK, steps=7, seed=3, num_envs=8, group_size=4, learning_rate=0.5, gamma=0.25, gae_lambda=0.5, clip=0.5,
        epochs=2, minibatches=2, entropy=0.5, value_weight=2.0, max_grad_norm=2.0, hidden=4, keep_bias=-1.0, trials=0.5,
        trial_weight=2.0, validate_every=2, validation_episodes=2, clone_from="static", clone_steps=2, threads=2,
    )  # fmt: skip
    assert all(value != getattr(PPOConfig(), name) for name, value in asdict(other).items() if name != "task")
    options = [word for name, value in asdict(other).items() for word in (option_of(name), str(value))]
    assert configured(options, monkeypatch, tmp_path) == other


@pytest.mark.parametrize("path", CARDS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_the_command_of_every_shipped_card_still_means_the_cards_configuration(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.loads(path.read_text())
    [_, _, *options] = shlex.split(card["command"])
    assert asdict(configured(options, monkeypatch, tmp_path)) == with_current_names(card["config"])
    assert ("--twins is deprecated: use --group-size" in capsys.readouterr().err) is ("--twins" in options)


def test_the_old_option_is_hidden_and_refused_beside_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"], only="train") == 0
    shown = capsys.readouterr().out
    assert "--group-size" in shown
    assert "--twins" not in shown
    assert cli.main(["--task", TASK, "--twins", "2", "--group-size", "4"], only="train") == 2
    assert "--twins: must not be given beside --group-size" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["--task", TASK, "--twins", "0"], only="train") == 2
    assert "--group-size: must be in 1..64" in " ".join(capsys.readouterr().err.split())


def test_a_finished_run_whose_card_has_the_old_name_is_repeated(tmp_path: Path) -> None:
    training.run(config(steps=UPDATE), tmp_path, tensorboard=False)
    first = (tmp_path / POLICY).read_bytes()
    card = json.loads((tmp_path / CARD).read_text())
    card["config"]["twins"] = card["config"].pop("group_size")
    (tmp_path / CARD).write_text(json.dumps(card))
    training.run(config(steps=UPDATE), tmp_path, tensorboard=False)
    assert (tmp_path / POLICY).read_bytes() == first
    assert json.loads((tmp_path / CARD).read_text())["config"]["group_size"] == TINY["group_size"]


def test_a_state_with_the_old_name_goes_on(kept: tuple[Path, Any], tmp_path: Path) -> None:
    whole, _ = kept
    path = interrupted(tmp_path) / training.STATE
    state = torch.load(path, weights_only=True)
    state["config"]["twins"] = state["config"].pop("group_size")
    torch.save(state, path)
    training.run(config(), tmp_path, resume=True, tensorboard=False)
    assert (tmp_path / POLICY).read_bytes() == (whole / POLICY).read_bytes()


@pytest.mark.parametrize("name", ["config", "model", "normalizer", "returns", "best", "history"])
def test_a_state_of_another_layout_is_refused(tmp_path: Path, name: str) -> None:
    path = interrupted(tmp_path) / training.STATE
    state = torch.load(path, weights_only=True)
    state[name] = [{"nonsense": 1}]
    torch.save(state, path)
    with pytest.raises(InvalidInputError, match="resume: must be the state of a training run"):
        training.run(config(), tmp_path, resume=True, tensorboard=False)
