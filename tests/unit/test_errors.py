"""The closed enum of reject codes, and what may be stored of a detail."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DETAIL_MAX_CHARS, RejectCode, RejectError, scrub


def test_every_code_has_a_meaning_and_advice() -> None:
    for code in RejectCode:
        meaning = code.meaning
        assert meaning.meaning
        assert meaning.action


@given(st.text(max_size=2000))
def test_details_are_short_and_on_one_line(text: str) -> None:
    detail = RejectError(RejectCode.FETCH_FAILED, text).detail
    assert len(detail) <= DETAIL_MAX_CHARS
    assert "\n" not in detail


def test_no_address_no_credential_no_signature() -> None:
    detail = scrub("<X at 0x7f12ab> s3://key:secret@bucket/a https://h/p/?X-Amz-Signature=abc&y=1 end")
    for secret in ("0x7f12ab", "secret", "Signature", "abc"):
        assert secret not in detail
    assert "end" in detail
