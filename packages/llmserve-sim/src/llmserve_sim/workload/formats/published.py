"""Traces that providers have published.

Columns are those of the providers' own descriptions:

- Azure 2023, 2024 and 2025: github.com/Azure/AzurePublicDataset, ``AzureLLMInferenceDataset2023.md`` and
  ``...2024.md``, ``AzureLMMInferenceDataset2025.md`` (which adds ``NumImages``);
- BurstGPT: github.com/HPMLL/BurstGPT, ``README.md``: rows without tokens are failures;
- Mooncake: github.com/kvcache-ai/Mooncake, the traces of FAST '25: milliseconds, blocks of 512 tokens in ``hash_ids``;
- Qwen-Bailian: github.com/alibaba-edu/qwen-bailian-usagetraces-anon, ``README.md``: Mooncake's keys **in seconds**,
  with ``chat_id`` and ``turn``;
- ServeGen: github.com/alibaba/ServeGen: requests have ``timestamp`` (s) and the data ``input_tokens`` and
  ``output_tokens``. Many logs use these names with other units, so this format must be named.
"""

from __future__ import annotations

from llmserve_sim.workload.formats.style import CLOCK, Format

__all__ = ["AZURE", "BAILIAN", "BURSTGPT", "MOONCAKE", "SERVEGEN"]

_LENGTHS = ("timestamp", "input_length", "output_length")

AZURE = Format(
    "azure",
    "Azure LLM inference traces 2023, 2024, 2025",
    "TIMESTAMP",
    "ContextTokens",
    "GeneratedTokens",
    CLOCK,
    (("TIMESTAMP", "ContextTokens", "GeneratedTokens"),),
)
BURSTGPT = Format(
    "burstgpt",
    "BurstGPT",
    "Timestamp",
    "Request tokens",
    "Response tokens",
    "s",
    (("Timestamp", "Model", "Request tokens", "Response tokens"),),
    zero_tokens_are_failures=True,
)
MOONCAKE = Format("mooncake", "Mooncake", *_LENGTHS, "ms", ((*_LENGTHS, "hash_ids"),), whole=True, hash_tokens=512)
BAILIAN = Format("bailian", "Qwen-Bailian", *_LENGTHS, "s", ((*_LENGTHS, "chat_id", "turn"),), hash_tokens=16)
SERVEGEN = Format("servegen", "ServeGen", "timestamp", "input_tokens", "output_tokens", "s", ())
