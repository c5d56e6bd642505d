"""vLLM's offline pooling as a contestant, where `vllm` is installed: texts only, from the same weights.

On a text Qwen3-VL's language model is a Qwen3: all three axes of a position are equal, so that the interleaved rotation
is the plain one. So the language model is saved as a Qwen3 and handed token ids; pictures would need a processor and
vLLM's own preparation, which is not what is compared here. Its vectors are compared with ours as every arm's are.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Qwen3VLModel

from benchmarks.encode_arms import Arm, Vectors
from pipeline.types import Prepared

__all__ = ["Vllm", "save_text_model", "vllm_arms"]

MEMORY_SHARE = 0.35
"""Of the card, for vLLM beside the model that the other arms share: the 8B's text weights, and many tokens' keys."""

COPIED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "attention_bias",
)  # fmt: skip
"""Settings of the language model that a Qwen3 has too."""


class Vllm:
    """`LLM.embed` with vLLM's own settings; no cache of prefixes, for no work is to be shared between runs."""

    name = "vllm"

    def __init__(self, model: Qwen3VLModel, longest_tokens: int) -> None:
        from vllm import LLM

        self._folder = TemporaryDirectory(prefix="lakevec-vllm-")
        save_text_model(model, Path(self._folder.name))
        self._llm = LLM(
            model=self._folder.name,
            runner="pooling",
            skip_tokenizer_init=True,
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=longest_tokens + 1,
            gpu_memory_utilization=MEMORY_SHARE,
            enable_prefix_caching=False,
        )

    def run(self, items: Sequence[Prepared]) -> Vectors:
        prompts = [{"prompt_token_ids": item.input_ids.tolist()} for item in items]
        outputs = self._llm.embed(prompts, use_tqdm=False)
        return np.array([output.outputs.embedding for output in outputs], np.float32)


def vllm_arms(model: Qwen3VLModel, longest_tokens: int) -> list[Arm]:
    """The arm for texts up to `longest_tokens`; none, and a line that says why, where vLLM is missing or fails."""
    if not importlib.util.find_spec("vllm"):
        print("vllm: not installed; its arm is left out")
        return []
    torch.cuda.empty_cache()
    try:
        return [Vllm(model, longest_tokens)]
    except Exception as error:  # noqa: BLE001 - whatever another engine fails with, the other arms run
        print(f"vllm: left out, it does not start: {type(error).__name__}: {error}", flush=True)
        return []


def save_text_model(model: Qwen3VLModel, folder: Path) -> None:
    """Write the language model of `model` into `folder` as a Qwen3ForCausalLM: config.json, model.safetensors."""
    text = model.config.text_config
    theta = text.rope_parameters["rope_theta"]
    config = {name: getattr(text, name) for name in COPIED} | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "tie_word_embeddings": True,
        "dtype": str(model.dtype).removeprefix("torch."),
        # Older libraries read the first, newer ones the second.
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    weights = {f"model.{name}": tensor for name, tensor in model.language_model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
