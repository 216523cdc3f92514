"""`Grader`: grade a session's episode, a stored one or a log from anywhere, and say whether its future was known.

The backend grades by replaying a log. The store knows beside it whether the server showed the future of the episode
before it was played. Of a log from elsewhere this cannot be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmserve_server.backends import BackendFactory
from llmserve_server.errors import AmbiguousEpisode, EpisodeState, TooLarge, UnknownEpisode
from llmserve_server.sessions.cache import SessionCache
from llmserve_server.sessions.refusals import is_storable
from llmserve_server.settings import Settings
from llmserve_server.store.episodes import EpisodeRow, EpisodeStore
from llmserve_sim.schema import EpisodeLog, GradeReport, parse_log

__all__ = ["Grader"]


class Grader:
    """Grades for `SessionRegistry`, which explains the arguments."""

    def __init__(
        self, settings: Settings, store: EpisodeStore, cache: SessionCache, backend_factory: BackendFactory
    ) -> None:
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
        if log is not None:
            log = self._parse(log)
            foresight = self._recorded(log)
        elif episode_id is not None:
            row = self._find(episode_id, session_id)
            backend = self._cache.rebuild(row)[0]
            log, foresight = backend.log(), row.foresight
            backend.close()
        elif session_id is not None:
            with self._cache.lend(session_id, fresh=True) as slot:
                assert slot.backend is not None
                assert slot.row is not None
                log, foresight = slot.backend.log(), slot.row.foresight
        else:
            raise EpisodeState("there is no episode to grade: name a session or an episode, or send a log")
        backend = self._make_backend()
        try:
            return backend.grade(log).model_copy(update={"foresight": foresight})
        finally:
            backend.close()

    def _find(self, episode_id: str, session_id: str | None) -> EpisodeRow:
        """Return the episode with that id: the session's own if it has one, else that of the only session with one."""
        rows: list[EpisodeRow] = []
        if session_id is not None:
            rows = self._store.episodes(episode_id, session_id)
        rows = rows or self._store.episodes(episode_id)
        if not rows:
            raise UnknownEpisode("there is no such episode (or it is too old to be kept)", field="episode_id")
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
