"""Minari records episodes with their infos, which it refuses if an info's keys change."""

from __future__ import annotations

from pathlib import Path

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed: nox -s recipes")
minari = pytest.importorskip("minari", reason="minari is not installed: nox -s recipes")

import llmserve_sim.gym  # noqa: E402, F401 - registers the ids

pytestmark = pytest.mark.filterwarnings("ignore")  # Minari asks for an author, a link and more


def test_minari_records_whole_episodes_with_their_infos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gymnasium.make("LLMServe/StaticWorkload-v0", max_episode_steps=5), record_infos=True)
    for seed in (3, 4):
        env.reset(seed=seed)
        while not env.step(env.action_space.sample())[3]:
            pass
    made = env.create_dataset("llmserve/random-v0", algorithm_name="random")
    episodes = list(made.iterate_episodes())
    assert [len(episode) for episode in episodes] == [5, 5]
    assert [episode.infos["episode_seed"].tolist() for episode in episodes] == [[3] * 6, [4] * 6]
    terms = episodes[0].infos["reward_terms"]
    assert sum(values[1:] for values in terms.values()) == pytest.approx(episodes[0].rewards)
    env.close()
