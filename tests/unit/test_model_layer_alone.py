"""The model layer runs where only torch, transformers and NumPy are: a GPU machine for benchmarks has no more."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pydantic", "ray", "av", "duckdb", "tenacity", "loky"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import torch
from benchmarks.encode_shapes import TINY, random_model
from pipeline.models.options import EncoderOptions
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.models.probe import picture_item

model = random_model(TINY, torch.device("cpu"), torch.float32)
encoder = Qwen3VLEncoder(model, EncoderOptions(token_budget=50))
encoder.check_contract()
encoded = encoder.encode([picture_item(model.config, 64, 64), picture_item(model.config, 96, 64)])
print(json.dumps([encoded.vectors.shape[0], encoded.forwards, "pydantic" in sys.modules]))
"""


def test_an_encoder_works_without_the_libraries_of_the_pipeline() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [2, 1, False]
