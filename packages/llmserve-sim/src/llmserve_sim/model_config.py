"""A `ModelSpec` from the config.json that lies beside a model's weights on Hugging Face.

One file is read; nothing is downloaded and no code of the model runs. An architecture is known here or refused by name:
guessed shapes would give plausible and wrong times. Of multimodal models, the language model alone is described. What the
configuration leaves out has the default of its class in transformers 4.57.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.model_spec import ModelSpec

__all__ = ["ARCHITECTURES", "read_model_config"]

MAX_BYTES: Final = 4 << 20
"""Largest file, bytes; those published have some kilobytes."""
_MLA: Final = "must be absent: multi-head latent attention (DeepSeek-V2, V3, Kimi K2) is not modelled"


class _Config:
    """A JSON object whose values are asked for by key and type; errors name the key."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def refuse(self, key: str, bound: str) -> InvalidInputError:
        return InvalidInputError(f"{self.where}: {key}", bound, got=self.values.get(key))

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer; without a default it must be there. JSON's null counts as absent."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 0:
            raise self.refuse(key, "must be an integer of at least 0")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(key, "must be true or false")
        return value

    def windows(self, layers: int, count: int) -> dict[str, int]:
        """Window and number of windowed layers: what `layer_types` lists, else `count`."""
        kinds = self.values.get("layer_types")
        if kinds is not None:
            if not isinstance(kinds, list) or len(kinds) != layers:
                raise self.refuse("layer_types", f"must list the {layers} layers")
            for kind in kinds:
                if kind not in {"full_attention", "sliding_attention"}:
                    raise self.refuse("layer_types", f"must hold full_attention and sliding_attention, not {kind!r}")
            count = kinds.count("sliding_attention")
        if not count:
            return {}
        return {"sliding_window": self.integer("sliding_window"), "windowed_layers": count}


def _common(c: _Config, **defaults: int) -> dict[str, Any]:
    """The fields that every architecture has, under the same keys."""
    heads = c.integer("num_attention_heads", defaults.get("num_attention_heads"))
    hidden = c.integer("hidden_size")
    if not heads:
        raise c.refuse("num_attention_heads", "must be at least 1")
    if not c.values.get("head_dim") and "head_dim" not in defaults and hidden % heads:
        raise c.refuse("hidden_size", f"must be a multiple of the {heads} heads, or head_dim given")
    return {
        "layers": c.integer("num_hidden_layers"),
        "hidden": hidden,
        "intermediate": c.integer("intermediate_size"),
        "heads": heads,
        "kv_heads": c.integer("num_key_value_heads", defaults.get("num_key_value_heads", heads)),
        "head_dim": c.integer("head_dim", defaults.get("head_dim", hidden // heads)),
        "vocab": c.integer("vocab_size", defaults.get("vocab_size")),
        "tied_embeddings": c.flag("tie_word_embeddings", default=False),
    }


def _attention_bias(c: _Config, *, default: bool = False) -> dict[str, bool]:
    bias = c.flag("attention_bias", default=default)
    return {"qkv_bias": bias, "output_bias": bias}


def _llama(c: _Config) -> dict[str, Any]:
    return _common(c) | _attention_bias(c) | {"mlp_bias": c.flag("mlp_bias", default=False)}


def _windowed(c: _Config) -> dict[str, Any]:
    """Mistral, Mixtral, Phi-3 and Phi-4: every layer is windowed, or none."""
    shape = _common(c)
    return shape | c.windows(shape["layers"], shape["layers"] if c.values.get("sliding_window") else 0)


def _phi3(c: _Config) -> dict[str, Any]:
    return _windowed(c) | _attention_bias(c)


def _mixtral(c: _Config) -> dict[str, Any]:
    shape = _windowed(c)
    return shape | {
        "num_experts": c.integer("num_local_experts"),
        "num_experts_per_tok": c.integer("num_experts_per_tok"),
        "moe_intermediate_size": shape["intermediate"],
    }


def _qwen(c: _Config) -> dict[str, Any]:
    """Layers from `max_window_layers` on are windowed, if `use_sliding_window` says so."""
    shape = _common(c)
    windowed = 0
    if c.flag("use_sliding_window", default=False):
        windowed = max(0, shape["layers"] - c.integer("max_window_layers", 28))
    return shape | c.windows(shape["layers"], windowed)


def _qwen2(c: _Config) -> dict[str, Any]:
    return _qwen(c) | {"qkv_bias": True}


def _qwen3(c: _Config) -> dict[str, Any]:
    return _qwen(c) | _attention_bias(c) | {"qk_norm": True}


def _qwen3_moe(c: _Config) -> dict[str, Any]:
    if c.values.get("mlp_only_layers"):
        raise c.refuse("mlp_only_layers", "must be empty: dense layers among those with experts are not modelled")
    if c.integer("decoder_sparse_step", 1) != 1:
        raise c.refuse("decoder_sparse_step", "must be 1: dense layers among those with experts are not modelled")
    return _qwen3(c) | {
        "num_experts": c.integer("num_experts"),
        "num_experts_per_tok": c.integer("num_experts_per_tok"),
        "moe_intermediate_size": c.integer("moe_intermediate_size"),
    }


def _gemma2(c: _Config) -> dict[str, Any]:
    """Layers 0, 2, 4... are windowed."""
    shape = _common(c)
    windows = c.windows(shape["layers"], -(-shape["layers"] // 2))
    tied = c.flag("tie_word_embeddings", default=True)
    return shape | _attention_bias(c) | windows | {"tied_embeddings": tied, "post_norms": True}


def _gemma3(c: _Config) -> dict[str, Any]:
    """All layers but every sixth are windowed."""
    shape = _common(c, num_attention_heads=8, num_key_value_heads=4, head_dim=256, vocab_size=262_208)
    pattern = c.integer("sliding_window_pattern", 6)
    if pattern < 1:
        raise c.refuse("sliding_window_pattern", "must be at least 1")
    windows = c.windows(shape["layers"], shape["layers"] - shape["layers"] // pattern)
    tied = c.flag("tie_word_embeddings", default=True)
    return shape | _attention_bias(c) | windows | {"tied_embeddings": tied, "post_norms": True, "qk_norm": True}


def _gpt_oss(c: _Config) -> dict[str, Any]:
    """Layers 0, 2, 4... are windowed. Attention's sinks, one number a head, are not counted."""
    shape = _common(c, head_dim=64)
    return (
        shape
        | _attention_bias(c, default=True)
        | c.windows(shape["layers"], -(-shape["layers"] // 2))
        | {
            "mlp_bias": True,
            "num_experts": c.integer("num_local_experts"),
            "num_experts_per_tok": c.integer("num_experts_per_tok"),
            "moe_intermediate_size": shape["intermediate"],
        }
    )


def _shared_experts(c: _Config) -> dict[str, Any]:
    """The mixture of DeepSeek's models: shared experts as wide as the routed ones, behind some dense layers."""
    if c.integer("moe_layer_freq", 1) != 1:
        raise c.refuse("moe_layer_freq", "must be 1: dense layers among those with experts are not modelled")
    shared = c.integer("n_shared_experts", 0)
    width = c.integer("moe_intermediate_size")
    return {
        "num_experts": c.integer("n_routed_experts"),
        "num_experts_per_tok": c.integer("num_experts_per_tok"),
        "moe_intermediate_size": width,
        "num_shared_experts": shared,
        "shared_intermediate_size": width if shared else 0,
        "first_dense_layers": c.integer("first_k_dense_replace", 0),
    }


def _deepseek(c: _Config) -> dict[str, Any]:
    return _common(c) | _attention_bias(c) | _shared_experts(c)


def _glm4_moe(c: _Config) -> dict[str, Any]:
    bias = c.flag("attention_bias", default=False)  # of queries, keys and values only
    norm = c.flag("use_qk_norm", default=False)
    return _common(c) | _shared_experts(c) | {"qkv_bias": bias, "qk_norm": norm}


ARCHITECTURES: Final[dict[str, Callable[[_Config], dict[str, Any]]]] = {
    "DeepseekForCausalLM": _deepseek,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "Glm4MoeForCausalLM": _glm4_moe,
    "GptOssForCausalLM": _gpt_oss,
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _windowed,
    "MixtralForCausalLM": _mixtral,
    "Phi3ForCausalLM": _phi3,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
}
"""The known entries of `architectures`, each with what reads its fields."""


def read_model_config(path: str | Path) -> ModelSpec:
    """Return the model that a config.json describes, named by the folder that holds it (or by the file, if called otherwise).

    Whether the checkpoint is quantised is not read: a deployment's weight format says that.

    Raises:
        InvalidInputError: the file cannot be read, is no JSON object, names an unknown architecture, has
            multi-head latent attention, or lacks a field or holds one out of bounds.
    """
    path = Path(path)
    values = _load(path)
    architectures = values.get("architectures")
    known = f"one of {', '.join(ARCHITECTURES)}"
    name = architectures[0] if isinstance(architectures, list) and len(architectures) == 1 else None
    text = values.get("text_config")
    merged = values | text if isinstance(text, dict) else values
    config = _Config(merged, str(path))
    if merged.get("kv_lora_rank") is not None:
        raise config.refuse("kv_lora_rank", _MLA)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise InvalidInputError(f"{path}: architectures", known, got=architectures)
    shape = ARCHITECTURES[name](config)
    title = path.resolve().parent.name if path.name == "config.json" else path.stem
    try:
        return ModelSpec(name=title[:100] or "model", **shape)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error.field}", error.bound, got=error.got) from None


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError("model", f"a config.json that can be read ({reason})", got=str(path)) from None
    if len(raw) > MAX_BYTES:
        raise InvalidInputError("model", f"a config.json of at most {MAX_BYTES:,} bytes", got=str(path))
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidInputError("model", "a file of JSON", got=str(path)) from None
    if not isinstance(values, dict):
        raise InvalidInputError("model", "a file with one JSON object", got=str(path))
    return values
