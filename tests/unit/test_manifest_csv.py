"""CSV: whatever RFC 4180 allows is read as it was written, and a quote too many loses no row in silence."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ManifestError
from pipeline.manifest import csv_files
from pipeline.manifest.csv_quotes import QuoteCheck
from tests.fixtures.manifests import opened, rows_of, write_text

CELLS = st.lists(st.sampled_from(["a", '"', ",", "\n", "\r\n", " ", "ü"]), max_size=8).map("".join)


def refusal(blocks: Sequence[bytes]) -> str | None:
    """What a check says of a file that comes in `blocks`; None if it is good."""
    check = QuoteCheck()
    try:
        for block in blocks:
            check.feed(block)
        check.end()
    except pa.ArrowInvalid as error:
        return str(error)
    return None


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_what_a_writer_wrote_is_read_as_it_was(rows: list[tuple[str, str]], quote_all: bool, end: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL, lineterminator=end)
    writer.writerows([("id", "text"), *((f"{i}{a}", b) for i, (a, b) in enumerate(rows))])
    file = io.BytesIO(text.getvalue().encode())
    read = [row for batch in csv_files.csv_batches(file, ["id", "text"]) for row in batch.to_pylist()]
    assert [(row["id"], row["text"] or "") for row in read] == [(f"{i}{a}", b) for i, (a, b) in enumerate(rows)]


def follows_the_grammar(text: str) -> bool:
    """RFC 4180, a character at a time: quotes stand around a cell, or doubled in one that has them around it."""
    state = "start"
    for character in text:
        if state == "quoted":
            state = "quote" if character == '"' else "quoted"
        elif character == '"':
            if state == "plain":
                return False
            state = "quoted"
        elif character in ",\n":
            state = "start"
        elif state == "quote":
            return False
        else:
            state = "plain"
    return state != "quoted"


@given(st.text(st.sampled_from('a",\n'), max_size=24), st.lists(st.integers(0, 24), max_size=4))
def test_only_files_of_the_grammar_pass_and_they_mean_one_thing(text: str, places: list[int]) -> None:
    said = refusal(cut(text.encode(), places))
    assert said == refusal([text.encode()]), "the blocks in which a file comes make no difference"
    assert (said is None) == follows_the_grammar(text)
    if said is None:
        list(csv.reader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('1,a\n2,"b\n3,c\n4,d\n', ["line 3", "never ends"]),
        ('1,a\n2,b\n3,"c', ["line 4", "never ends"]),
        ('1,a\n2,"b\n3,c\n4,"d"\n5,e\n', ["line 5", "begins in line 3", "double"]),
        ('1,"a\nb",\n2,x"y\n', ["line 4", "does not begin with one", "line 2"]),
        ('1,5" pipe\n', ["line 2", "does not begin with one"]),
        ('1, "a, b"\n', ["line 2", "does not begin with one"]),
        ('1,"say \\"hi\\""\n', ["line 2", "text follows"]),
        ('1,"a"b\n', ["line 2", "text follows"]),
        ('1,"a\n2,"b\n3,"c\n4,"d\n', ["line 3", "begins in line 2"]),
    ],
)
@pytest.mark.parametrize("block_bytes", [64, 8 << 20])
def test_stray_quotes_are_refused_with_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: list[str], block_bytes: int
) -> None:
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", block_bytes)
    path = write_text(tmp_path / "m.csv", "id,text\n" + body)
    with pytest.raises(ManifestError) as error:
        rows_of(opened(path))
    for words in ["m.csv", *said]:
        assert words in str(error.value)


def test_a_quote_that_outlasts_a_block_names_where_it_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 64)
    path = write_text(tmp_path / "m.csv", 'id,text\n1,a\n2,"b\n' + "".join(f"{i},c\n" for i in range(3, 2000)))
    with pytest.raises(ManifestError, match="line 3 did not end within 64 bytes"):
        rows_of(opened(path))


def test_quotes_and_lines_are_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 40)
    rows = [f'{i},"a ""{i}"",\n{i}"\n' for i in range(50)]
    path = write_text(tmp_path / "m.csv", '\ufeff"id","text"\n' + "".join(rows))
    assert [row.texts for row in rows_of(opened(path))] == [(f'a "{i}",\n{i}',) for i in range(50)]
    path = write_text(tmp_path / "bad.csv", "id,text\n" + "".join(rows) + '50,"a"b\n')
    with pytest.raises(ManifestError, match="line 102: text follows"):
        rows_of(opened(path))
