"""Makes a tiny Llama with random weights and a byte-level tokenizer, as a folder that `transformers serve` can load.

Its answers are gibberish, but it is a real model behind a real server, made here without a network:

    python scripts/tiny_llama.py --out MODEL_FOLDER

Needs torch and transformers, and nothing of this project.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BEGIN, END = "<|begin|>", "<|end|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer in which every byte is a token, so that nothing is learned or fetched."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token=BEGIN, eos_token=END, pad_token=END)
    made.chat_template = TEMPLATE
    return made


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    arguments = parser.parse_args()

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    torch.manual_seed(arguments.seed)
    model = LlamaForCausalLM(config)
    # Only printable ASCII, and no end: every token is then a letter that streams at once, up to the limit asked for.
    printable = {words.convert_tokens_to_ids(chr(code)) for code in range(33, 127)}
    model.generation_config = GenerationConfig(
        do_sample=True,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        suppress_tokens=[token for token in range(len(words)) if token not in printable],
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(arguments.out)
    words.save_pretrained(arguments.out)
    print(f"{arguments.out}: {sum(p.numel() for p in model.parameters())} parameters, {len(words)} tokens")


if __name__ == "__main__":
    main()
