"""Models from config.json: counts that were published, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import LLAMA_3_1_8B, QWEN3_32B
from llmserve_sim.model_config import read_model_config
from llmserve_sim.model_spec import ModelSpec


def fields(architecture: str, shape: tuple[int, ...], **others: Any) -> dict[str, Any]:
    """A config.json by its few numbers: layers, hidden, intermediate, heads, KV heads, vocabulary."""
    keys = (
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    return {"architectures": [architecture], **dict(zip(keys, shape, strict=True)), **others}


def read(folder: Path, config: object) -> ModelSpec:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return read_model_config(path)


# The fields are those of each model's config.json on huggingface.co; the counts are those of its safetensors files, which
# the page of the model shows, less what is not served (gpt-oss: the 64 sinks of each layer).
LLAMA_8B = fields("LlamaForCausalLM", (32, 4096, 14_336, 32, 8, 128_256))
LLAMA_1B = fields("LlamaForCausalLM", (16, 2048, 8192, 32, 8, 128_256), head_dim=64, tie_word_embeddings=True)
LLAMA_70B = fields("LlamaForCausalLM", (80, 8192, 28_672, 64, 8, 128_256))
MISTRAL = fields("MistralForCausalLM", (32, 4096, 14_336, 32, 8, 32_000), sliding_window=4096)
QWEN2_5 = fields(
    "Qwen2ForCausalLM", (28, 3584, 18_944, 28, 4, 152_064), use_sliding_window=False, sliding_window=131_072
)
QWEN3 = fields("Qwen3ForCausalLM", (64, 5120, 25_600, 64, 8, 151_936), head_dim=128)
GEMMA_2 = fields("Gemma2ForCausalLM", (26, 2304, 9216, 8, 4, 256_000), head_dim=256, sliding_window=4096)
GEMMA_3 = fields(
    "Gemma3ForCausalLM", (26, 1152, 6912, 4, 1, 262_144), head_dim=256, sliding_window=512, sliding_window_pattern=6
)
PHI_3 = fields("Phi3ForCausalLM", (32, 3072, 8192, 32, 32, 32_064), sliding_window=2047)
PHI_4 = fields("Phi3ForCausalLM", (40, 5120, 17_920, 40, 10, 100_352), sliding_window=None)
MIXTRAL = fields("MixtralForCausalLM", (32, 4096, 14_336, 32, 8, 32_000), num_local_experts=8, num_experts_per_tok=2)
QWEN3_MOE = fields(
    "Qwen3MoeForCausalLM",
    (48, 2048, 6144, 32, 4, 151_936),
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
    decoder_sparse_step=1,
    mlp_only_layers=[],
)
GPT_OSS = fields(
    "GptOssForCausalLM",
    (24, 2880, 2880, 64, 8, 201_088),
    head_dim=64,
    num_local_experts=32,
    num_experts_per_tok=4,
    attention_bias=True,
    sliding_window=128,
    layer_types=["sliding_attention", "full_attention"] * 12,
)
DEEPSEEK_MOE = fields(
    "DeepseekForCausalLM",
    (28, 2048, 10_944, 16, 16, 102_400),
    n_routed_experts=64,
    num_experts_per_tok=6,
    n_shared_experts=2,
    moe_intermediate_size=1408,
    first_k_dense_replace=1,
    moe_layer_freq=1,
)
PUBLISHED = {
    "Llama-3.1-8B": (LLAMA_8B, 8_030_261_248),
    "Llama-3.2-1B": (LLAMA_1B, 1_235_814_400),
    "Llama-3.1-70B": (LLAMA_70B, 70_553_706_496),
    "Mistral-7B-v0.1": (MISTRAL, 7_241_732_096),
    "Qwen2.5-7B": (QWEN2_5, 7_615_616_512),
    "Qwen3-32B": (QWEN3, 32_762_123_264),
    "gemma-2-2b": (GEMMA_2, 2_614_341_888),
    "gemma-3-1b": (GEMMA_3, 999_885_952),
    "Phi-3-mini-4k": (PHI_3, 3_821_079_552),
    "phi-4": (PHI_4, 14_659_507_200),
    "Mixtral-8x7B": (MIXTRAL, 46_702_792_704),
    "Qwen3-30B-A3B": (QWEN3_MOE, 30_532_122_624),
    "gpt-oss-20b": (GPT_OSS, 20_914_757_184 - 24 * 64),
    "deepseek-moe-16b": (DEEPSEEK_MOE, 16_375_728_128),
}


@pytest.mark.parametrize(("config", "count"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_parameters_are_those_published(tmp_path: Path, config: dict[str, Any], count: int) -> None:
    """To the last one."""
    assert read(tmp_path, config).total_parameters == count


@pytest.mark.parametrize(("config", "model"), [(LLAMA_8B, LLAMA_3_1_8B), (QWEN3, QWEN3_32B)], ids=["Llama", "Qwen3"])
def test_known_models_are_what_their_config_says(tmp_path: Path, config: dict[str, Any], model: ModelSpec) -> None:
    """Under the name of the folder."""
    folder = tmp_path / model.name
    folder.mkdir()
    assert read(folder, config) == model


@pytest.mark.parametrize(
    ("config", "window", "layers"),
    [
        (MISTRAL, 4096, 32),
        (MISTRAL | {"sliding_window": None}, 0, 0),
        (QWEN2_5, 0, 0),
        (QWEN2_5 | {"use_sliding_window": True, "max_window_layers": 20}, 131_072, 8),
        (GEMMA_2, 4096, 13),
        (GEMMA_3, 512, 22),
        (GPT_OSS, 128, 12),
        (PHI_4, 0, 0),
    ],
)
def test_layers_are_windowed_as_each_architecture_has_it(
    tmp_path: Path, config: dict[str, Any], window: int, layers: int
) -> None:
    """All, some in turn, the last ones, or none."""
    model = read(tmp_path, config)
    assert (model.sliding_window, model.windowed_layers) == (window, layers)


def test_the_language_model_of_a_multimodal_one_is_read(tmp_path: Path) -> None:
    """gemma-3-4b's config.json leaves heads and vocabulary to the class's defaults; its text part has 3.88e9 weights."""
    text = {"num_hidden_layers": 34, "hidden_size": 2560, "intermediate_size": 10_240, "sliding_window": 1024}
    model = read(tmp_path, {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    assert (model.heads, model.kv_heads, model.vocab, model.windowed_layers) == (8, 4, 262_208, 29)
    assert model.total_parameters == pytest.approx(3.88e9, rel=1e-3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LLAMA_8B | {"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        (LLAMA_8B | {"architectures": ["DeepseekV3ForCausalLM"], "kv_lora_rank": 512}, "multi-head latent attention"),
        (LLAMA_8B | {"architectures": None}, "architectures"),
        (LLAMA_8B | {"hidden_size": None}, "hidden_size"),
        (LLAMA_8B | {"hidden_size": 4096.0}, "hidden_size"),
        (LLAMA_8B | {"hidden_size": 4097}, "hidden_size"),
        (LLAMA_8B | {"num_attention_heads": 0}, "num_attention_heads"),
        (LLAMA_8B | {"num_key_value_heads": 5}, "kv_heads"),
        (LLAMA_8B | {"num_key_value_heads": 0}, "kv_heads"),
        (LLAMA_8B | {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        (GEMMA_3 | {"sliding_window_pattern": 0}, "sliding_window_pattern"),
        (QWEN3_MOE | {"mlp_only_layers": [3]}, "mlp_only_layers"),
        (QWEN3_MOE | {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        (DEEPSEEK_MOE | {"moe_layer_freq": 2}, "moe_layer_freq"),
        (GPT_OSS | {"layer_types": ["linear_attention"] * 24}, "linear_attention"),
        (GPT_OSS | {"layer_types": ["full_attention"]}, "layer_types"),
        ([LLAMA_8B], "JSON object"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(tmp_path: Path, config: object, words: str) -> None:
    """With the field, its bound and what was given."""
    with pytest.raises(InvalidInputError, match=words):
        read(tmp_path, config)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    """As is one that is not there."""
    path = tmp_path / "config.json"
    with pytest.raises(InvalidInputError, match="can be read"):
        read_model_config(path)
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="JSON"):
        read_model_config(path)
