"""Prompts into token ids, on the `tokenizers` library alone, exact to the last token.

In: a `Prompt`, and what to do with control tokens and over-length. Out: int32 ids; an embedder's prompt ends in
`<|endoftext|>`. Refused: a tokenizer that is not the named model's (`ConfigError`); control tokens that stand for
media (`CONTROL_TOKEN`); prompts whose visuals or instruction leave no room (`OVER_LENGTH`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.cuttable import CuttableIds
from pipeline.errors import ConfigError, RejectCode, RejectError
from pipeline.rerank.template import compose_document, compose_query
from pipeline.template import (
    CONTROL_IDS,
    END_OF_TEXT_ID,
    IMAGE_PAD_ID,
    VIDEO_PAD_ID,
    Control,
    Plain,
    Prompt,
    compose,
)

__all__ = ["ControlTokens", "Encoded", "OverLength", "PromptModel", "PromptTokenizer"]

ControlTokens = Literal["neutralise", "reference"]
OverLength = Literal["truncate", "reject", "reference"]
PromptModel = Literal["embedder", "reranker"]

_PROBE = "<|im_start|>user\nprobe<|im_end|>\n<|im_start|>assistant\n"

_MEND = "use the tokenizer.json of the checkpoint that the weights came with"

MAX_FILE_BYTES = 128 << 20
"""Ten times Qwen's: a larger one would take a preparer's memory before anything about it is known."""

_RERANKER_END = "<|im_end|>\n<|im_start|>assistant\n"
"""The reranker reads its answer at the last of these five ids; a final `<|endoftext|>` would move that place."""

_NFC_SHRINK = 4
"""NFC joins at most so many code points into one for the scripts that it joins (Hangul 3, Latin and Greek 4)."""

_CHARS_PER_TOKEN = (16, 64)
"""Beginnings of a long text that are tried: prose has four characters a token, the densest script about one, a run of
blanks 128."""

CACHED_PIECES = 256
"""Instructions and timestamps that recur; rows with instructions of their own push each other out, harmlessly."""

CACHED_CHARS = 4096
"""A longer instruction is hardly one that recurs, and a cache of them would be megabytes."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenised prompt: `input_ids` int32[n], n ≤ max_length; `truncated` if user text was cut."""

    input_ids: NDArray[np.int32]
    truncated: bool


class PromptTokenizer:
    """The tokenizer of an embedder or a reranker, read from the checkpoint folder's tokenizer.json.

    Two tokenizers share the vocabulary. `reference` splits at every added token, as the official code does.
    `neutral` does not know the special ones, so that a literal `<|im_end|>` in user data becomes the ordinary tokens
    of its characters; added tokens that are not special (`<think>`, `<tool_call>`, `<|fim_prefix|>`) steer no
    embedding prompt and stay as the reference has them. Text without special tokens gets the same ids from both.
    """

    def __init__(self, folder: Path, model: PromptModel = "embedder") -> None:
        path = folder / "tokenizer.json"
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ConfigError(f"{path} has more than {MAX_FILE_BYTES} bytes; {_MEND}")
            self._reference = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except ConfigError:
            raise
        except FileNotFoundError:
            raise ConfigError(f"{folder} has no tokenizer.json; {_MEND}") from None
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a file it cannot read
            raise ConfigError(f"{path} is no tokenizer: {error}; {_MEND}") from None
        self._reference.no_truncation()
        self._reference.no_padding()
        self._neutral, self._neutral_ids = _without_special_tokens(self._reference)
        # The pieces around the user's text are the same in nearly every prompt, and were half the work of a short one.
        self._cached = lru_cache(maxsize=CACHED_PIECES)(self._plain)
        self._path = path
        # A byte-level token has one character a byte, and no character of text takes less than a byte.
        self._max_token_chars = max(map(len, self._reference.get_vocab(with_added_tokens=False)))
        self.check(model)

    def check(self, model: PromptModel) -> None:
        """Assert what every prompt relies on: control ids, and what the post-processor appends.

        That is `<|endoftext|>` for an embedder, nothing for a reranker. Raises ConfigError saying what is wrong and
        how to mend it.
        """
        for token, token_id in CONTROL_IDS.items():
            found = self._reference.token_to_id(token)
            if found != token_id or self._reference.encode(token, add_special_tokens=False).ids != [token_id]:
                raise ConfigError(f"{self._path} gives {token} the id {found}, not {token_id}; {_MEND}")
        if model == "embedder":
            self._check_embedder()
        else:
            self._check_reranker()

    def _check_embedder(self) -> None:
        probe = self._reference.encode(_PROBE).ids
        if probe[-1] != END_OF_TEXT_ID:
            raise ConfigError(
                f"{self._path} ends a prompt in token {probe[-1]}, not in <|endoftext|> ({END_OF_TEXT_ID}), which is"
                f" the token the embedder is trained to pool; {_MEND}, or add its TemplateProcessing post-processor"
            )
        # Prompts are put together from pieces here; a tokenizer that adds or joins anything else would differ.
        ours = self.encode(compose("probe.", (), "probe"), max_length=64).input_ids.tolist()
        text = "<|im_start|>system\nprobe.<|im_end|>\n<|im_start|>user\nprobe<|im_end|>\n<|im_start|>assistant\n"
        if ours != self._reference.encode(text).ids:
            raise ConfigError(f"{self._path} adds more to a prompt than a final <|endoftext|>; {_MEND}")

    def _check_reranker(self) -> None:
        end = self._reference.encode(_RERANKER_END, add_special_tokens=False).ids
        probe = self._reference.encode(_PROBE).ids
        if probe[-len(end) :] != end:
            raise ConfigError(
                f"{self._path} ends a prompt in token {probe[-1]}, not in the answer's header, where the reranker"
                f" reads yes or no: is this an embedder's tokenizer? {_MEND}"
            )
        halves = (compose_query("probe", (), "probe"), compose_document((), "probe"))
        ours = [token for half in halves for token in self.cuttable(half).whole.tolist()]
        if ours != self._reference.encode(self.decode(np.asarray(ours, np.int32))).ids:
            raise ConfigError(f"{self._path} adds or joins tokens in a prompt that its halves do not have; {_MEND}")

    def encode(
        self,
        prompt: Prompt,
        *,
        max_length: int,
        over_length: OverLength = "truncate",
        control_tokens: ControlTokens = "neutralise",
    ) -> Encoded:
        """Token ids of `prompt`, at most `max_length` of them.

        `truncate` cuts the user's text between two of its tokens and keeps all else, so a cut prompt has exactly
        `max_length` ids (a token can hold part of a character, so the last character may be incomplete, as it
        may in the reference). `reference` cuts the prompt's right end and puts `<|endoftext|>` there. Raises
        `OVER_LENGTH` where neither may cut (visuals, instruction; or any need to cut under `reject`), and
        `CONTROL_TOKEN` for a literal pad in `control_tokens="reference"`.
        """
        ids = self.cuttable(prompt, max_length=max_length, control_tokens=control_tokens)
        excess = ids.n_tokens - max_length
        if excess <= 0:
            return Encoded(ids.whole, truncated=False)
        if over_length == "reject":
            raise RejectError(RejectCode.OVER_LENGTH, f"more than {max_length} tokens, and over_length is reject")
        if over_length == "reference":
            return Encoded(_cut_as_reference(ids.whole, max_length), truncated=True)
        if excess > ids.text_tokens:
            raise RejectError(
                RejectCode.OVER_LENGTH,
                f"visuals and instruction take at least {ids.fixed_tokens} tokens of {max_length} without any text",
            )
        return Encoded(ids.without(excess), truncated=True)

    def cuttable(
        self, prompt: Prompt, *, max_length: int | None = None, control_tokens: ControlTokens = "neutralise"
    ) -> CuttableIds:
        """Token ids of `prompt` in full, or of any half of one, with what a cut needs to know.

        Of a text that passes `max_length` whatever its tokens are, only as much is read as shows that. Raises
        `CONTROL_TOKEN` for a literal pad in `control_tokens="reference"`.
        """
        before = self._pieces(prompt.before, control_tokens, max_length)
        after = self._pieces(prompt.after, control_tokens, max_length)
        # A reranker's head holds the instruction, which is as long as its row has it.
        head, text = self._bounded(prompt.head, max_length), self._bounded(prompt.text, max_length)
        whole = np.concatenate([before, self._plain(head + text + prompt.tail, control_tokens), after])
        tail = np.concatenate([self._fixed(prompt.tail, control_tokens), after])
        apart = whole
        if prompt.tail:
            apart = np.concatenate([before, self._plain(head + text, control_tokens), tail])
        kept = len(before) + len(self._fixed(head, control_tokens)) + len(tail)
        return CuttableIds(whole, apart, tail_tokens=len(tail), text_tokens=max(0, len(whole) - kept))

    def count(self, prompt: Prompt, *, max_length: int | None = None) -> int:
        """Tokens of `prompt`, its control tokens neutralised; any number above `max_length` if there are more."""
        pieces = (*prompt.before, Plain(prompt.head + prompt.text + prompt.tail), *prompt.after)
        return len(self._pieces(pieces, "neutralise", max_length))

    def decode(self, input_ids: NDArray[np.int32]) -> str:
        """The text of `input_ids`, control tokens written out."""
        return str(self._reference.decode(input_ids.tolist(), skip_special_tokens=False))

    def _bounded(self, text: str, max_length: int | None) -> str:
        """`text`, or as much of it as has more than twice `max_length` tokens: what is cut off then has no part in
        the ones that are kept, and tokenising 50 MB would take a minute and gigabytes."""
        if max_length is None:
            return text
        for chars in _CHARS_PER_TOKEN:
            begun = text[: (max_length + 1) * chars]
            if len(begun) == len(text):
                return text
            if len(self._plain(begun, "neutralise")) > 2 * (max_length + 1):
                return begun
        # Longer text cannot fit whatever its tokens are.
        return text[: (max_length + 1) * self._max_token_chars * _NFC_SHRINK]

    def _pieces(
        self, pieces: Iterable[Plain | Control], control_tokens: ControlTokens, max_length: int | None = None
    ) -> NDArray[np.int32]:
        parts = [np.empty(0, np.int32)]
        for piece in pieces:
            if isinstance(piece, Control):
                parts.append(np.full(piece.count, piece.token_id, np.int32))
            else:
                parts.append(self._fixed(self._bounded(piece.text, max_length), control_tokens))
        return np.concatenate(parts)

    def _fixed(self, text: str, control_tokens: ControlTokens) -> NDArray[np.int32]:
        return (self._cached if len(text) <= CACHED_CHARS else self._plain)(text, control_tokens)

    def _plain(self, text: str, control_tokens: ControlTokens) -> NDArray[np.int32]:
        well_formed = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no Unicode text
        if control_tokens == "neutralise":
            ids = np.asarray(self._neutral.encode(well_formed, add_special_tokens=False).ids, np.int32)
            return self._neutral_ids[ids]
        ids = np.asarray(self._reference.encode(well_formed, add_special_tokens=False).ids, np.int32)
        if np.isin(ids, (IMAGE_PAD_ID, VIDEO_PAD_ID)).any():
            raise RejectError(
                RejectCode.CONTROL_TOKEN,
                "the text holds a literal <|image_pad|> or <|video_pad|>, which stand for media",
            )
        return ids


def _without_special_tokens(reference: Tokenizer) -> tuple[Tokenizer, NDArray[np.int32]]:
    """`reference` without its special tokens, and the table of the new tokenizer's ids in the whole vocabulary.

    The library numbers added tokens itself, right after the vocabulary, so the kept ones have moved.
    """
    neutral = Tokenizer(reference.model)
    if reference.normalizer is not None:
        neutral.normalizer = reference.normalizer
    neutral.pre_tokenizer = reference.pre_tokenizer
    added = reference.get_added_tokens_decoder().values()
    neutral.add_tokens([token for token in added if not token.special and token.content not in CONTROL_IDS])
    vocab = neutral.get_vocab(with_added_tokens=True)
    everything = reference.get_vocab(with_added_tokens=True)
    table = np.zeros(max(vocab.values()) + 1, np.int32)
    for token, token_id in vocab.items():
        table[token_id] = everything[token]
    return neutral, table


def _cut_as_reference(whole: NDArray[np.int32], max_length: int) -> NDArray[np.int32]:
    """The first `max_length` - 1 ids and `<|endoftext|>`; refused, as by the reference, if pads would be lost."""
    kept, lost = whole[: max_length - 1], whole[max_length - 1 :]
    if np.isin(lost, (IMAGE_PAD_ID, VIDEO_PAD_ID)).any():
        raise RejectError(RejectCode.OVER_LENGTH, f"the cut to {max_length} tokens would reach visual tokens")
    return np.append(kept, np.int32(END_OF_TEXT_ID))
