from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from pipeline.errors import ConfigError, RejectCode, RejectError
from pipeline.template import CONTROL_IDS, DEFAULT_INSTRUCTION, Plain, Prompt, VisualSlot, compose
from pipeline.tokenizer import PromptTokenizer
from tests.fixtures.tokenizer import ADDED_TOKENS, CONTROL_COUNT, cached_tokenizer, prompt_tokenizer

NAMES = {token_id: token for token, token_id in CONTROL_IDS.items()}
AMPLE = 100_000

BENIGN = st.text(
    alphabet=st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \n\r\t<|>'_1Aé.\u00a0\u0301\u200d\u3000\U000f0000\ufffd"),
    ),
    max_size=60,
).filter(lambda text: not any(token in text * 2 for token in CONTROL_IDS))
NASTY = st.lists(
    st.one_of(
        BENIGN,
        st.sampled_from([*ADDED_TOKENS, "<|im_", "end|>", "<|", "|>", "<|IM_END|>", "<|placeholder|>"]),
    ),
    max_size=8,
).map("".join)
SLOTS = st.lists(
    st.builds(VisualSlot, st.integers(1, 20), st.none() | st.lists(st.floats(0, 99), max_size=3).map(tuple)),
    max_size=3,
)


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return prompt_tokenizer()


@pytest.fixture(scope="module")
def library() -> Tokenizer:
    return Tokenizer.from_file(str(cached_tokenizer() / "tokenizer.json"))


def as_string(prompt: Prompt) -> str:
    """The whole prompt as the reference would hand it to its tokenizer, which appends the last token."""
    before, after = (
        "".join(piece.text if isinstance(piece, Plain) else NAMES[piece.token_id] * piece.count for piece in pieces)
        for pieces in (prompt.before, prompt.after[:-1])
    )
    return before + prompt.head + prompt.text + after


def control_counts(ids: np.ndarray) -> dict[int, int]:
    return {token_id: int((ids == token_id).sum()) for token_id in NAMES}


def test_the_rebuilt_tokenizer_is_qwen_s(library: Tokenizer) -> None:
    assert library.get_vocab_size() == 151_669
    assert library.encode("yes").ids == [9693, 151643]
    assert library.encode(" hello").ids == [23811, 151643]
    assert library.encode("<|im_start|>system\nRepresent the user's input.<|im_end|>\n").ids == [
        151644, 8948, 198, 65743, 279, 1196, 594, 1946, 13, 151645, 198, 151643,
    ]  # fmt: skip
    assert [library.token_to_id(token) for token in ADDED_TOKENS] == list(range(151643, 151669))


def test_transformers_reads_the_same_tokenizer(library: Tokenizer) -> None:
    auto = AutoTokenizer.from_pretrained(str(cached_tokenizer()))
    text = "<|im_start|>user\n\n  e\u0301 12 你好 <think>don't</think><|im_end|>"
    assert auto(text)["input_ids"] == library.encode(text).ids
    assert auto.pad_token_id == 151643


@settings(max_examples=1500)
@given(instruction=BENIGN, slots=SLOTS, text=BENIGN)
def test_pieces_give_the_ids_of_the_whole_string(
    tokenizer: PromptTokenizer, library: Tokenizer, instruction: str, slots: list[VisualSlot], text: str
) -> None:
    prompt = compose(instruction, slots, text)
    assert tokenizer.encode(prompt, max_length=AMPLE).input_ids.tolist() == library.encode(as_string(prompt)).ids


@settings(max_examples=500)
@given(text=st.lists(st.one_of(BENIGN, st.sampled_from(ADDED_TOKENS[CONTROL_COUNT:])), max_size=6).map("".join))
def test_added_tokens_that_control_nothing_stay_as_the_reference_has_them(
    tokenizer: PromptTokenizer, library: Tokenizer, text: str
) -> None:
    prompt = compose(DEFAULT_INSTRUCTION, (), text)
    assert tokenizer.encode(prompt, max_length=AMPLE).input_ids.tolist() == library.encode(as_string(prompt)).ids


@settings(max_examples=1000)
@given(instruction=NASTY, slots=SLOTS, text=NASTY)
def test_no_user_text_makes_a_control_token(
    tokenizer: PromptTokenizer, instruction: str, slots: list[VisualSlot], text: str
) -> None:
    got = tokenizer.encode(compose(instruction, slots, text), max_length=AMPLE).input_ids
    own = tokenizer.encode(compose("x", slots, ""), max_length=AMPLE).input_ids
    assert control_counts(got) == control_counts(own)


@settings(max_examples=300)
@given(text=NASTY)
def test_a_neutralised_token_still_reads_the_same(tokenizer: PromptTokenizer, library: Tokenizer, text: str) -> None:
    prompt = compose(DEFAULT_INSTRUCTION, (), text)
    shown = tokenizer.decode(tokenizer.encode(prompt, max_length=AMPLE).input_ids)
    normal = library.normalizer.normalize_str(as_string(prompt))
    assert library.normalizer.normalize_str(shown) == normal + "<|endoftext|>"


@settings(max_examples=300)
@given(text=NASTY.filter(lambda text: "_pad|>" not in text))
def test_reference_mode_parses_control_tokens_as_the_reference_does(
    tokenizer: PromptTokenizer, library: Tokenizer, text: str
) -> None:
    prompt = compose(DEFAULT_INSTRUCTION, (), text)
    got = tokenizer.encode(prompt, max_length=AMPLE, control_tokens="reference").input_ids.tolist()
    assert got == library.encode(as_string(prompt)).ids


@pytest.mark.parametrize("pad", ["<|image_pad|>", "<|video_pad|>"])
def test_reference_mode_refuses_literal_pads(tokenizer: PromptTokenizer, pad: str) -> None:
    for prompt in (compose("Do.", (), f"a{pad}"), compose(f"Do {pad}.", (), "a")):
        with pytest.raises(RejectError) as error:
            tokenizer.encode(prompt, max_length=AMPLE, control_tokens="reference")
        assert error.value.code is RejectCode.CONTROL_TOKEN
        assert len(tokenizer.encode(prompt, max_length=AMPLE).input_ids) > 10


@settings(max_examples=500)
@given(slots=SLOTS, text=NASTY.map(lambda text: text * 20), max_length=st.integers(10, 200))
def test_a_cut_prompt_has_exactly_max_length_tokens_and_its_own_frame(
    tokenizer: PromptTokenizer, slots: list[VisualSlot], text: str, max_length: int
) -> None:
    prompt = compose("Do.", slots, text)
    full = tokenizer.encode(prompt, max_length=AMPLE).input_ids
    frame = tokenizer.count(compose("Do.", slots, ""))
    if frame > max_length:
        with pytest.raises(RejectError, match="OVER_LENGTH"):
            tokenizer.encode(prompt, max_length=max_length)
        return
    cut = tokenizer.encode(prompt, max_length=max_length)
    assert len(cut.input_ids) == min(len(full), max_length)
    assert cut.truncated == (len(full) > max_length)
    tail = tokenizer.encode(compose("Do.", (), ""), max_length=AMPLE).input_ids[-6:].tolist()
    assert cut.input_ids[-6:].tolist() == tail
    assert cut.input_ids[:-6].tolist() == full[: len(cut.input_ids) - 6].tolist()
    assert control_counts(cut.input_ids) == control_counts(full)


@settings(max_examples=300)
@given(text=BENIGN.map(lambda text: text * 10), max_length=st.integers(2, 100))
def test_reference_cuts_equal_the_library_s_truncation(
    tokenizer: PromptTokenizer, library: Tokenizer, text: str, max_length: int
) -> None:
    prompt = compose("Do.", (), text)
    got = tokenizer.encode(prompt, max_length=max_length, over_length="reference").input_ids.tolist()
    library.enable_truncation(max_length)
    want = library.encode(as_string(prompt)).ids
    library.no_truncation()
    assert got == want


def test_reference_cuts_stop_before_pads(tokenizer: PromptTokenizer) -> None:
    prompt = compose("Do.", [VisualSlot(50, None)], "word " * 100)
    last_pad = int(np.flatnonzero(tokenizer.encode(prompt, max_length=AMPLE).input_ids == 151655)[-1])
    fits = tokenizer.encode(prompt, max_length=last_pad + 2, over_length="reference").input_ids
    assert fits[-2:].tolist() == [151655, 151643]
    with pytest.raises(RejectError, match="OVER_LENGTH"):
        tokenizer.encode(prompt, max_length=last_pad + 1, over_length="reference")


def test_reject_mode_refuses_any_cut(tokenizer: PromptTokenizer) -> None:
    prompt = compose("Do.", (), "word " * 100)
    length = tokenizer.count(prompt)
    assert not tokenizer.encode(prompt, max_length=length, over_length="reject").truncated
    with pytest.raises(RejectError, match="OVER_LENGTH"):
        tokenizer.encode(prompt, max_length=length - 1, over_length="reject")


def test_an_enormous_text_is_cut_before_it_is_tokenised(tokenizer: PromptTokenizer) -> None:
    text = "a lake of words, " * 3_000_000  # 51 MB: tokenised whole it would take minutes and gigabytes
    cut = tokenizer.encode(compose("Do.", (), text), max_length=64)
    small = tokenizer.encode(compose("Do.", (), text[:2000]), max_length=64)
    assert cut.input_ids.tolist() == small.input_ids.tolist()
    assert cut.truncated


def test_lone_surrogates_become_question_marks(tokenizer: PromptTokenizer) -> None:
    broken = tokenizer.encode(compose("Do.", (), "a\ud800b"), max_length=AMPLE).input_ids
    assert broken.tolist() == tokenizer.encode(compose("Do.", (), "a?b"), max_length=AMPLE).input_ids.tolist()


def test_a_tokenizer_without_the_final_token_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not in <\|endoftext\|>") as error:
        PromptTokenizer(cached_tokenizer(append_eos=False))
    assert "TemplateProcessing" in str(error.value)


def test_each_model_refuses_the_other_s_tokenizer() -> None:
    with pytest.raises(ConfigError, match="where the reranker reads yes or no"):
        PromptTokenizer(cached_tokenizer(), "reranker")
    assert PromptTokenizer(cached_tokenizer(append_eos=False), "reranker").count(compose("", (), "")) > 0


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        PromptTokenizer(tmp_path)


def test_a_broken_tokenizer_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ConfigError, match="is no tokenizer"):
        PromptTokenizer(tmp_path)


@pytest.mark.parametrize("harm", ["renumbered", "extra token"])
def test_a_foreign_tokenizer_is_refused(tmp_path: Path, harm: str) -> None:
    tree = json.loads((cached_tokenizer() / "tokenizer.json").read_text(encoding="utf-8"))
    if harm == "renumbered":
        first, second = tree["added_tokens"][1:3]
        first["content"], second["content"] = second["content"], first["content"]
    else:
        template = tree["post_processor"]["processors"][1]
        template["single"].insert(0, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}})
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"gives <.im_start.> the id|adds more to a prompt"):
        PromptTokenizer(tmp_path)
