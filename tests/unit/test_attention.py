"""Attention over packed sequences: every kernel that runs here equals attention spelt out, item by item."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models import attention as module
from pipeline.models.attention import Attention, choose_attention, sums_cost_memory
from pipeline.models.cascade import Behind, attend_behind
from pipeline.models.flash_attention import varlen_options
from pipeline.models.flex_attention import FlexAttention
from pipeline.models.segments import Segments, cu_seqlens, segments_of
from tests.fixtures.said import texts_said

CPU = torch.device("cpu")
LENGTHS = [5, 5, 5, 1, 33, 2, 2]


def segments(lengths: list[int]) -> Segments:
    return segments_of(lengths, torch.from_numpy(cu_seqlens(lengths)))


def spelt_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """One segment, [T, H, D], head by head."""
    out = torch.empty_like(q)
    for head in range(q.shape[1]):
        theirs = head * k.shape[1] // q.shape[1]
        scores = q[:, head].double() @ k[:, theirs].double().T / q.shape[2] ** 0.5
        if causal:
            scores += torch.full_like(scores, -torch.inf).triu(1)
        out[:, head] = (scores.softmax(-1) @ v[:, theirs].double()).float()
    return out


def kernel(name: str) -> Attention:
    if name == "flex":
        return FlexAttention(compiled=False)
    return choose_attention(name, CPU, torch.float32)[1]


@pytest.mark.filterwarnings("ignore:.*flex_attention.*:UserWarning")
@pytest.mark.parametrize("name", ["sdpa", "eager", "flex"])
@pytest.mark.parametrize(
    ("causal", "heads", "kv_heads", "dim"), [(True, 4, 2, 16), (False, 3, 3, 72), (False, 4, 2, 16)]
)
def test_a_kernel_equals_attention_spelt_out(name: str, causal: bool, heads: int, kv_heads: int, dim: int) -> None:
    torch.manual_seed(1)
    total = sum(LENGTHS)
    qkv = torch.randn(total, heads + 2 * kv_heads, dim)  # the views below are strided, as the vision tower's are
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    packed = segments(LENGTHS)
    got = kernel(name)(q, k, v, packed, packed, causal=causal)
    parts = [spelt_out(*one, causal) for one in zip(*(x.split(LENGTHS) for x in (q, k, v)), strict=True)]
    torch.testing.assert_close(got, torch.cat(parts), atol=2e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*flex_attention.*:UserWarning")
@pytest.mark.parametrize("name", ["sdpa", "eager", "flex"])
def test_one_query_a_segment_sees_all_its_keys(name: str) -> None:
    torch.manual_seed(2)
    q, (k, v) = torch.randn(len(LENGTHS), 4, 16), torch.randn(2, sum(LENGTHS), 2, 16)
    got = kernel(name)(q, k, v, segments([1] * len(LENGTHS)), segments(LENGTHS), causal=False)
    parts = [spelt_out(*one, False) for one in zip(q.split(1), k.split(LENGTHS), v.split(LENGTHS), strict=True)]
    torch.testing.assert_close(got, torch.cat(parts), atol=2e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*flex_attention.*:UserWarning")
@pytest.mark.parametrize("name", ["sdpa", "eager", "flex"])
@pytest.mark.parametrize("dim", [16, 72])
def test_queries_and_keys_of_unlike_lengths_and_their_sums(name: str, dim: int) -> None:
    torch.manual_seed(3)
    q, (k, v) = torch.randn(7, 4, dim), torch.randn(2, 12, 2, dim)
    of_q, of_k = segments([2, 2, 3]), segments([4, 4, 4])
    got, sums = kernel(name).with_lse(q, k, v, of_q, of_k, causal=False)
    for queries, keys, values, part, logs in zip(
        *(q.split([2, 2, 3]), k.split(4), v.split(4), got.split([2, 2, 3]), sums.split([2, 2, 3])), strict=True
    ):
        torch.testing.assert_close(part, spelt_out(queries, keys, values, False), atol=2e-6, rtol=1e-5)
        scores = torch.einsum("qhd,khd->qhk", queries, keys.repeat_interleave(2, 1)) / dim**0.5
        torch.testing.assert_close(logs, scores.logsumexp(-1), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "eager", "flex"])
@pytest.mark.parametrize("pooled", [True, False])
def test_attention_behind_prefixes_equals_attention_over_the_whole(name: str, pooled: bool) -> None:
    """Items 0 and 1 continue a prefix of 6 tokens, item 2 one of 3, and item 3 none."""
    torch.manual_seed(4)
    prefixes, lengths, of = [6, 3], [5, 2, 4, 3], [0, 0, 1, None]
    far = torch.randn(9, 8, 16).split([4, 2, 2], 1)[1:]
    own = torch.randn(14, 8, 16).split([4, 2, 2], 1)
    q = own[0][torch.tensor(lengths).cumsum(0) - 1] if pooled else own[0]
    packed = segments(lengths)
    behind = Behind(*far, segments([2, 1] if pooled else [7, 4]), segments(prefixes))
    of_q = segments([1] * 4) if pooled else packed
    got = attend_behind(kernel(name), q, *own[1:], of_q, packed, causal=not pooled, prefix=behind)
    for item, (part, queries, keys, values) in enumerate(
        zip(got.split(list(of_q.lengths)), *(x.split(lengths) for x in own), strict=True)
    ):
        k, v, before = keys, values, 0
        if (prefix := of[item]) is not None:
            before = prefixes[prefix]
            k, v = (torch.cat([x.split(prefixes)[prefix], y]) for x, y in zip(far, (keys, values), strict=True))
        padded = torch.cat([torch.zeros(before, 4, 16), queries])
        whole = spelt_out(padded, k, v, True)[before:]
        torch.testing.assert_close(part, whole[-1:] if pooled else whole, atol=2e-6, rtol=1e-5)


def test_only_the_exact_kernel_on_a_gpu_pays_for_its_sums() -> None:
    gpu = torch.device("cuda", 0)
    assert sums_cost_memory("sdpa", gpu)
    assert not sums_cost_memory("sdpa", CPU)
    assert not any(sums_cost_memory(name, gpu) for name in ("varlen", "flash_attention_2", "flex", "eager"))


def test_flex_may_be_compiled_for_every_kind_of_call() -> None:
    for given, left in ((8, 64), (100, 100)):
        with torch._dynamo.config.patch(recompile_limit=given):
            FlexAttention(compiled=False)
            assert torch._dynamo.config.recompile_limit == given
            FlexAttention(compiled=True)
            assert torch._dynamo.config.recompile_limit == left


def test_equal_neighbours_share_a_call() -> None:
    assert [tuple(run) for run in segments(LENGTHS).runs] == [(0, 3, 5), (15, 1, 1), (16, 1, 33), (49, 2, 2)]


def test_a_cpu_gets_the_exact_kernel_and_refuses_those_of_gpus() -> None:
    assert choose_attention("auto", CPU, torch.float32)[0] == "sdpa"
    assert choose_attention("auto", CPU, torch.bfloat16)[0] == "sdpa"
    for name in ("varlen", "flash_attention_2", "flex"):
        with pytest.raises(ConfigError, match=f"model.attention {name} computes in 16 bits only"):
            choose_attention(name, CPU, torch.float32)
        with pytest.raises(ConfigError, match=f"model.attention {name} needs a GPU"):
            choose_attention(name, CPU, torch.bfloat16)


@pytest.mark.parametrize(
    ("there", "capability", "chosen"),
    [
        ({"_varlen", "_flash"}, (9, 0), "varlen"),
        ({"_flash"}, (9, 0), "flash_attention_2"),
        ({"_varlen"}, (7, 5), "flex"),
        (set(), (8, 0), "flex"),
    ],
)
def test_a_gpu_gets_the_first_kernel_that_it_can_run(
    monkeypatch: pytest.MonkeyPatch, there: set[str], capability: tuple[int, int], chosen: str
) -> None:
    for name in ("_varlen", "_flash"):
        monkeypatch.setattr(module, name, lambda name=name: (lambda q, k: None) if name in there else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(module, "_works", lambda *args: True)
    assert choose_attention("auto", torch.device("cuda", 0), torch.bfloat16)[0] == chosen
    assert choose_attention("auto", torch.device("cuda", 0), torch.float32)[0] == "sdpa"


def test_a_kernel_is_tried_before_it_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    exact = choose_attention("sdpa", CPU, torch.bfloat16)[1]

    class Wrong:
        """`exact` with its arguments changed."""

        def __init__(self, change: Any) -> None:
            self._change = change

        def __call__(self, *args: Any, causal: bool) -> torch.Tensor:
            return self.with_lse(*args, causal=causal)[0]

        def with_lse(self, *args: Any, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
            args, causal = self._change(*args, causal)
            return exact.with_lse(*args, causal=causal)

    def ungrouped_args(q: torch.Tensor, k: torch.Tensor, *rest: Any) -> Any:
        if q.shape[1] != k.shape[1]:
            raise ValueError("as many heads, please\nand so on")
        return (q, k, *rest[:-1]), rest[-1]

    def square_args(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of_q: Any, of_k: Any, causal: bool) -> Any:
        return (q, k[: len(q)], v[: len(q)], of_q, of_q), causal

    ungrouped, square = Wrong(ungrouped_args), Wrong(square_args)
    unmasked = Wrong(lambda *args: (args[:-1], False))

    assert module._works(exact, "exact", CPU, torch.bfloat16)
    assert not module._works(ungrouped, "ungrouped", CPU, torch.bfloat16)
    assert not module._works(unmasked, "unmasked", CPU, torch.bfloat16)
    assert not module._works(square, "square", CPU, torch.bfloat16)
    assert texts_said(caplog) == [
        "attention ungrouped does not run here (as many heads, please); trying the next",
        "attention unmasked gives other values than sdpa; trying the next",
        "attention square gives other values than sdpa; trying the next",
    ]


def test_a_named_kernel_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(module, "_flash", lambda: None)
    with pytest.raises(ConfigError, match="needs the package flash-attn"):
        choose_attention("flash_attention_2", gpu, torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ConfigError, match="Ampere"):
        choose_attention("varlen", gpu, torch.bfloat16)


def test_varlen_is_asked_in_the_words_of_its_version() -> None:
    old = ("query", "key", "is_causal", "return_aux")
    new = ("query", "key", "window_size", "enable_gqa", "num_splits")
    assert varlen_options(old, causal=True, gqa=True, invariant=True) == {"is_causal": True}
    assert varlen_options(old, causal=False, gqa=False, invariant=False) == {}
    assert varlen_options(new, causal=True, gqa=True, invariant=True) == {
        "window_size": (-1, 0),
        "enable_gqa": True,
        "num_splits": 1,
    }
    assert varlen_options(new, causal=False, gqa=False, invariant=False) == {}


def test_varlen_gets_the_packed_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def varlen(
        query: Any, key: Any, value: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int,
        *, window_size: Any = (-1, -1), return_aux: Any = None,
    ) -> Any:  # fmt: skip
        asked.extend([cu_q.tolist(), max_q, cu_k.tolist(), max_k, window_size])
        return (query, torch.zeros(query.shape[1], len(query))) if return_aux and return_aux.lse else query

    monkeypatch.setattr(module, "_varlen", lambda: varlen)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    attend = choose_attention("varlen", torch.device("cuda", 0), torch.bfloat16)[1]
    q, (k, v) = torch.zeros(6, 2, 8), torch.zeros(2, 6, 2, 8)
    attend(q, k, v, segments([4, 2]), segments([4, 2]), causal=True)
    assert asked == [[0, 4, 6], 4, [0, 4, 6], 4, (-1, 0)]
    assert attend.with_lse(q, k, v, segments([4, 2]), segments([4, 2]), causal=False)[1].shape == (6, 2)
