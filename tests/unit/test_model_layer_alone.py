"""The model layer runs where only torch, transformers and NumPy are: a GPU machine for benchmarks has no more."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys

ABSENT = ("pydantic", "ray", "av", "PIL", "pyarrow", "duckdb", "fsspec", "s3fs", "botocore", "tenacity", "loky",
          "torchvision", "sentence_transformers", "vllm", "pytest", "hypothesis")

class Without:
    # Not refusing but not finding, as on a machine that lacks them: libraries ask before they import.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import torch
from benchmarks import encode_gpu, rerank
from benchmarks.encode_shapes import TINY, random_model
from pipeline.models.options import EncoderOptions
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.models.probe import picture_item

model = random_model(TINY, torch.device("cpu"), torch.float32)
encoder = Qwen3VLEncoder(model, EncoderOptions(token_budget=50))
encoder.check_contract()
encoded = encoder.encode([picture_item(model.config, 64, 64), picture_item(model.config, 96, 64)])
cells = list(encode_gpu.main(["--tiny", "--device", "cpu"])["cells"])
cells += list(rerank.main(["--tiny", "--documents", "2"])["cells"])
imported = [name for name in ABSENT if name in sys.modules]
print(json.dumps([encoded.vectors.shape[0], encoded.forwards, cells, imported]))
"""

RERANK_CELLS = ("text query, texts", "text query, images", "image query, texts", "image query, images")


def test_an_encoder_and_the_gpu_benchmarks_work_without_the_libraries_of_the_pipeline() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [2, 1, ["mix", "texts", *RERANK_CELLS], []]
