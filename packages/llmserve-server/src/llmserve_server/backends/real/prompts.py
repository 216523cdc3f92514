"""Synthetic prompts of a given length: deterministic, without meaning, and different from the first word on.

One word counts as one token. Every word of the list is a short, common English word, which the byte-pair encodings of
present models encode as one token together with the space before it. This is an estimate, because the endpoint's
tokenizer is unknown; the endpoint's own count is reported beside it. The tokens of the chat template (about seven with
OpenAI's models) are not included. No two prompts have a common beginning, so the endpoint's prefix cache has no effect.
"""

from __future__ import annotations

from hashlib import shake_256
from typing import Final

__all__ = ["WORDS", "prompt_of"]

_WORDS: Final = """
able about above across after again air all also always among and animal answer any apple area arm army around art
ask away baby back ball bank base bear beat bed before begin bell best better big bird black blood blue board boat
body bone book both box boy bread break bridge bright bring broad brother brown build burn bus business but buy call
camp can car card care carry case cat catch center chair chance change check child choice circle city class clean
clear clock close cloud coat cold color come common cook cool copy corn cost count country course cover cow crowd
cup cut dance dark day dead deal dear deep desk dinner doctor dog door double down dream dress drink drive drop dry
each ear early earth east easy eat edge egg eight else empty end engine enough even evening ever every eye face fact
fall family far farm fast father fear feel feet field fight fill final find fine finger fire first fish five flat
floor flow flower fly follow food foot force forest form four free fresh friend front fruit full game garden gas
gate gave general get girl give glad glass go gold good grand grass great green ground group grow hair half hand
happy hard hat head hear heart heat heavy help here high hill history hit hold home hope horse hot hour house inch
iron island job jump keep key kind king lake land large last late laugh law lead learn leave left leg less letter life
light
"""
WORDS: Final = tuple(_WORDS.split())
"""256 words, so that a byte selects one."""

_ASK: Final = ("Go", "on", "with", "this", "text", "at", "length", "and", "do", "not", "stop", "early")
"""The end of a prompt that is long enough: without it, a model may end its answer after a sentence."""


def prompt_of(seed: int, request: int, tokens: int) -> str:
    """Return a text of `tokens` words (at least 1), the same for the same episode seed and request."""
    tail = _ASK if tokens >= 2 * len(_ASK) else ()
    picks = shake_256(f"{seed}/{request}".encode()).digest(tokens - len(tail))
    return " ".join((*(WORDS[pick] for pick in picks), *tail))
