"""The `openai` agent: a language model at any OpenAI-compatible endpoint chooses each window's configuration.

If an answer is no valid action, or a request fails after its retries, the last configuration is repeated and the
failure is counted and reported; answers are never repaired. Features that an endpoint refuses (structured output,
temperature) are left out and listed in `concessions`. `endpoint.py` sends the requests, `prompt.py` writes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from llmserve_agents.errors import EndpointError
from llmserve_agents.llm.endpoint import Answer, ChatEndpoint, RequestFailedError
from llmserve_agents.llm.prices import PRICES, Price, cost_usd, price_of
from llmserve_agents.llm.prompt import InvalidAnswerError, action_schema, parse_answer, system_prompt, user_prompt
from llmserve_agents.llm.transcript import Transcript
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ServeAction, ServeObservation

__all__ = ["DEFAULT_MODEL", "LLMUsage", "OpenAIAgent"]

DEFAULT_MODEL: Final = "gpt-4.1-mini"
_FAILURES_IN_A_ROW: Final = 3
"""After this many windows without an answer the agent gives up on the endpoint."""


class LLMUsage(BaseModel):
    """Requests, tokens, cost and failures of one episode."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    requests: int = Field(default=0, ge=0, description="HTTP requests sent, repeated ones included.")
    retries: int = Field(default=0, ge=0, description="Requests sent again after a 429 or a 5xx.")
    invalid_actions: int = Field(
        default=0, ge=0, description="Windows whose answer was no action: the last configuration was repeated."
    )
    failed_requests: int = Field(
        default=0, ge=0, description="Windows without an answer: the last configuration was repeated."
    )
    invalid_reasons: dict[str, int] = Field(
        default_factory=dict,
        description="Why: refused, truncated, empty, malformed; or timeout, connection, an HTTP status.",
    )
    prompt_tokens: int = Field(default=0, ge=0, description="As the endpoint counted them, cached ones included.")
    cached_prompt_tokens: int = Field(default=0, ge=0, description="Of these, the cached ones.")
    completion_tokens: int = Field(default=0, ge=0, description="As the endpoint counted them.")
    uncounted_answers: int = Field(default=0, ge=0, description="Answers for which the endpoint reported no tokens.")
    cost_usd: float | None = Field(
        default=None, description="At list prices; null for a model without a price, or where answers were not counted."
    )
    response_format: str = Field(description="How answers were constrained: json_schema, json_object or text.")
    concessions: list[str] = Field(
        default_factory=list, description="What the endpoint refused and the agent gave up, in order, with the reason."
    )


class OpenAIAgent:
    """A policy that asks a model: one request per window, temperature 0, the last windows in the prompt.

    Args:
        endpoint: the model's endpoint.
        history: number of windows that the prompt shows.
        prices: list prices by model.
        transcript: a JSONL file for every question and answer, without keys.

    `act` raises `EndpointError` if the endpoint refuses every request or has failed in three windows in a row, and
    `RequestCapError` at the endpoint's limit of requests.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        *,
        history: int = 6,
        prices: Mapping[str, Price] = PRICES,
        transcript: Path | None = None,
    ) -> None:
        if type(history) is not int or not 1 <= history <= 120:
            raise InvalidInputError("history", "must be an integer in 1..120", got=history)
        self._endpoint = endpoint
        self._prices = prices
        self._transcript = None if transcript is None else Transcript(transcript, endpoint.redact)
        self._history: deque[tuple[ServeAction | None, ServeObservation]] = deque(maxlen=history)
        self._begin("")

    def __repr__(self) -> str:
        return f"OpenAIAgent(model={self._endpoint.model!r})"

    def reset(self, task_id: str, seed: int) -> None:
        """Drop the previous episode and its counts. The endpoint remembers what it has refused."""
        self._begin(task_id)
        if self._transcript is not None:
            self._transcript.write(
                event="episode", task_id=task_id, seed=seed, model=self._endpoint.model, system=self._system
            )

    def _begin(self, task_id: str) -> None:
        self._system = system_prompt(task_id) if task_id else ""
        self._history.clear()
        self._in_force: ServeAction | None = None
        self._reasons: dict[str, int] = {}
        self._invalid = self._failed = self._failed_in_a_row = 0
        self._prompt_tokens = self._cached_tokens = self._completion_tokens = self._uncounted = 0
        self._sent_before, self._retried_before = self._endpoint.requests, self._endpoint.retries

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the configuration that the model chooses; if it chooses none, the last one again."""
        if not self._system:
            self.reset(observation.task_id, 0)
        self._history.append((self._in_force, observation))
        question = user_prompt(list(self._history))
        answer, problem, action = None, None, None
        try:
            answer = self._endpoint.ask(self._system, question, action_schema())
            self._count(answer)
            action = _read(answer)
            self._failed_in_a_row = 0
        except InvalidAnswerError as error:
            self._failed_in_a_row = 0
            self._invalid += 1
            problem = str(error)
            kind = problem if problem in {"refused", "truncated", "empty"} else "malformed"
            self._reasons[kind] = self._reasons.get(kind, 0) + 1
        except RequestFailedError as error:
            self._failed += 1
            self._failed_in_a_row += 1
            problem = str(error)
            self._reasons[error.kind] = self._reasons.get(error.kind, 0) + 1
        self._note(observation, question, answer, problem, action)
        if self._failed_in_a_row >= _FAILURES_IN_A_ROW:
            raise EndpointError(f"no answer in {self._failed_in_a_row} windows in a row; the last: {problem}")
        # Before the first valid answer this is the default configuration.
        self._in_force = action or self._in_force or ServeAction()
        return self._in_force

    def usage(self) -> LLMUsage:
        """Return the usage of the episode so far."""
        price = price_of(self._endpoint.model, self._prices)
        tokens = {
            "prompt_tokens": self._prompt_tokens,
            "cached_prompt_tokens": self._cached_tokens,
            "completion_tokens": self._completion_tokens,
        }
        return LLMUsage(
            model=self._endpoint.model,
            requests=self._endpoint.requests - self._sent_before,
            retries=self._endpoint.retries - self._retried_before,
            invalid_actions=self._invalid,
            failed_requests=self._failed,
            invalid_reasons=dict(sorted(self._reasons.items())),
            uncounted_answers=self._uncounted,
            cost_usd=None if price is None or self._uncounted else cost_usd(price, **tokens),
            response_format=self._endpoint.response_format,
            concessions=list(self._endpoint.concessions),
            **tokens,
        )

    def close(self) -> None:
        """Close the connection and the transcript."""
        self._endpoint.close()
        if self._transcript is not None:
            self._transcript.close()

    def _count(self, answer: Answer) -> None:
        if answer.tokens is None:
            self._uncounted += 1
            return
        self._prompt_tokens += answer.tokens.prompt
        self._cached_tokens += answer.tokens.cached_prompt
        self._completion_tokens += answer.tokens.completion

    def _note(
        self,
        observation: ServeObservation,
        question: str,
        answer: Answer | None,
        problem: str | None,
        action: ServeAction | None,
    ) -> None:
        if self._transcript is None:
            return
        tokens = None if answer is None or answer.tokens is None else answer.tokens._asdict()
        self._transcript.write(
            event="window",
            window=observation.step_index,
            response_format=self._endpoint.response_format,
            question=question,
            answer=None if answer is None else answer.text,
            refusal=None if answer is None else answer.refusal,
            finish_reason=None if answer is None else answer.finish_reason,
            tokens=tokens,
            problem=problem,
            action=None if action is None else action.model_dump(),
        )


def _read(answer: Answer) -> ServeAction:
    """Return the action of an answer; raises `InvalidAnswerError`."""
    if answer.refusal is not None or answer.finish_reason == "content_filter":
        raise InvalidAnswerError("refused")
    if answer.finish_reason == "length":
        raise InvalidAnswerError("truncated")
    if not answer.text or not answer.text.strip():
        raise InvalidAnswerError("empty")
    return parse_answer(answer.text)
