"""`Grader`: grade a session's episode, a stored one or a log from anywhere, and say whether its future was known.

The backend grades by replaying a log. The store knows beside it whether the server showed the future of the episode
before it was played. Of a log from elsewhere this cannot be known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from llmserve_server.backends import BackendFactory
from llmserve_server.errors import AmbiguousEpisode, EpisodeState, TooLarge, UnknownEpisode
from llmserve_server.sessions.cache import SessionCache
from llmserve_server.sessions.refusals import is_storable
from llmserve_server.settings import Settings
from llmserve_server.store.episodes import EpisodeRow, EpisodeStore
from llmserve_sim.schema import EpisodeLog, GradeReport, parse_log
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["Grader", "shows_future"]

_MADE_HERE: Final = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")
"""The hexadecimal digits of a random UUID: an episode's id, unless its caller chose another."""


def shows_future(settings: Settings, task_id: str, seed: int) -> bool:
    """Return whether callers may see the true future of an episode before it is played."""
    return settings.true_forks or seed in catalogue_task(task_id).seeds.train


class Grader:
    """Grades for `SessionRegistry`, which explains the arguments."""

    def __init__(
        self, settings: Settings, store: EpisodeStore, cache: SessionCache, backend_factory: BackendFactory
    ) -> None:
        self._settings = settings
        self._most_steps = settings.max_log_steps
        self._store = store
        self._cache = cache
        self._make_backend = backend_factory

    def grade(
        self,
        session_id: str | None,
        episode_id: str | None,
        log: EpisodeLog | Mapping[str, Any] | str | bytes | None,
    ) -> GradeReport:
        """Return the grade of `log` if given; else of the episode; else of the session's current episode."""
        is_forecast = False
        if log is not None:
            log = self._parse(log)
            foresight = self._recorded(log)
        elif episode_id is not None:
            row = self._find(episode_id, session_id)
            backend = self._cache.rebuild(row)[0]
            log, foresight, is_forecast = backend.log(), row.foresight, row.forecasts is not None
            backend.close()
        elif session_id is not None:
            with self._cache.lend(session_id, fresh=True) as slot:
                assert slot.backend is not None
                assert slot.row is not None
                log, foresight, is_forecast = slot.backend.log(), slot.row.foresight, slot.row.forecasts is not None
        else:
            raise EpisodeState("there is no episode to grade: name a session or an episode, or send a log")
        backend = self._make_backend()
        try:
            # A log may end with windows that were not played: the reason must not tell what they bring.
            tell_replay = shows_future(self._settings, log.task_id, log.seed)
            report = backend.grade(log, tell_replay=tell_replay)
            told: dict[str, object] = {"foresight": foresight}
            if is_forecast and not report.verified:
                told["reason"] = "a fork whose future is a forecast is no episode of the task: it has no score"
            return report.model_copy(update=told)
        finally:
            backend.close()

    def _find(self, episode_id: str, session_id: str | None) -> EpisodeRow:
        """Return the episode with that id: the session's own if it has one, else that of the only session with one.

        An id that a caller chose can be guessed: it names an episode of its session only.
        """
        rows: list[EpisodeRow] = []
        if session_id is not None:
            rows = self._store.episodes(episode_id, session_id)
        if not rows and _MADE_HERE.fullmatch(episode_id):
            rows = self._store.episodes(episode_id)
        if not rows:
            raise UnknownEpisode(
                "there is no such episode (or it is too old to be kept); one with an id of your own choice needs its "
                "session_id",
                field="episode_id",
            )
        if len({row.session_id for row in rows}) > 1:
            raise AmbiguousEpisode("several sessions have an episode of that id: name the session", field="session_id")
        return rows[0]

    def _recorded(self, log: EpisodeLog) -> bool | None:
        """Return the `foresight` of the stored episode that `log` is the log of; None if it is of none, or of several."""
        if not is_storable(log.episode_id):
            return None
        actions = [step.action for step in log.steps]
        found = {
            row.foresight
            for row in self._store.episodes(log.episode_id)
            if (row.task_id, row.seed, row.task_digest) == (log.task_id, log.seed, log.task_digest)
            and [step.action for step in self._store.steps(row)] == actions
        }
        return found.pop() if len(found) == 1 else True if True in found else None

    def _parse(self, log: EpisodeLog | Mapping[str, Any] | str | bytes) -> EpisodeLog:
        parsed = parse_log(log)
        most = self._most_steps
        if len(parsed.steps) > most:
            bound = f"must be at most {most}"
            raise TooLarge(f"steps: {bound}, the log has {len(parsed.steps)}", field="steps", bound=bound)
        return parsed
