"""JPEGs that bypass Pillow come out as Pillow gives them, to the bit; all others are left to Pillow."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.decode import image as image_module
from pipeline.decode.image import decode_image
from pipeline.decode.jpeg import decode_jpeg
from pipeline.errors import RejectError
from tests.fixtures.media import Picture, encode_image, mutate, photo, screenshot

PHOTO = photo(50, 34, 7)

# A 24×16 px photograph by `cjpeg -quality 40 -arithmetic` (libjpeg-turbo 2.1.5): no Python library writes such files.
ARITHMETIC = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV02B@n5)Ta&5)cv>6%-gAG9exu93DL^E+jHZKuk+VKt@GST61DhRc%&9Mr4R(ZFhTtf`Lw8jhBplmUDiA"
    "eE-`3Lje^R7akfOJ0T%Ed{ahKe0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0=}O01*fP5C9kh0U`hb5di}c"
    "0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf05$mENvq3=)S!#v=vc@C2B&8emUGWl!oEpAl#XK(Uqrw;?IMEtyEU8u;iTgpzqG_+Uv~1k1UJl^M"
    "ZR$RF`Q^>7v|aw}djo5nj0<nMzy)fA$r`yA$GxM2!w5#ojliE!Fxl*e(sRrTHL(yd|Je"
)

WHOLE: dict[str, Callable[[], bytes]] = {
    "grey": lambda: encode_image(Image.fromarray(PHOTO).convert("L"), "JPEG"),
    "grey, progressive": lambda: encode_image(Image.fromarray(PHOTO).convert("L"), "JPEG", progressive=True),
    "restart markers": lambda: encode_image(PHOTO, "JPEG", restart_marker_blocks=2),
    "own tables": lambda: encode_image(PHOTO, "JPEG", optimize=True, quality=35),
    "profile": lambda: encode_image(PHOTO, "JPEG", icc_profile=b"a colour profile, which nobody applies"),
    "comment": lambda: encode_image(PHOTO, "JPEG", comment=b"\xff\xd8\xff\xc0 in a comment"),
    "bytes after the end": lambda: encode_image(PHOTO, "JPEG") + b"\0trailer" * 9,
    "two pictures": lambda: encode_image(PHOTO, "JPEG") + encode_image(PHOTO[::-1], "JPEG"),
    "arithmetic": lambda: ARITHMETIC,
}

FOREIGN: dict[str, Callable[[], bytes]] = {
    "CMYK": lambda: encode_image(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "RGB": lambda: encode_image(PHOTO, "JPEG", keep_rgb=True),
    "cut": lambda: encode_image(PHOTO, "JPEG")[:-40],
    "no end marker": lambda: encode_image(PHOTO, "JPEG")[:-2],
    "header alone": lambda: encode_image(PHOTO, "JPEG")[:300],
    "nothing": lambda: b"",
}


def _pillow(data: bytes) -> Picture:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.uint8)


def _directly(data: bytes) -> Picture | None:
    """What bypasses Pillow."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as opened:
        return decode_jpeg(data, opened.height, opened.width)


@settings(max_examples=150)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["444", "422", "420", "440", "411"]),
    st.integers(1, 100),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_every_size_and_subsampling_equals_pillow(
    width: int, height: int, subsampling: str, quality: int, smooth: bool, progressive: bool, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = photo(width, height, seed) if smooth else noise
    if progressive:
        sampling = subsampling if subsampling in ("444", "422") else "420"  # all that Pillow writes
        named = f"{sampling[0]}:{sampling[1]}:{sampling[2]}"
        data = encode_image(picture, "JPEG", quality=quality, subsampling=named, progressive=True)
    else:
        data = simplejpeg.encode_jpeg(picture, quality=quality, colorsubsampling=subsampling)
    directly = _directly(data)
    assert directly is not None
    assert np.array_equal(directly, _pillow(data))


@pytest.mark.parametrize("width", [640, 641, 655, 656])
def test_pictures_of_many_blocks_equal_pillow(width: int) -> None:
    for picture in (photo(width, 480, 3), screenshot(width, 479)):
        directly = _directly(data := encode_image(picture, "JPEG", quality=90))
        assert directly is not None
        assert np.array_equal(directly, _pillow(data))


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_bypass_pillow_and_equal_it(name: str) -> None:
    data = WHOLE[name]()
    with patch.object(image_module.Image.Image, "convert", side_effect=AssertionError("went through Pillow")):
        decoded = decode_image(data, exif=True)
    assert isinstance(decoded, np.ndarray)
    assert np.array_equal(decoded, _pillow(data))


@pytest.mark.parametrize("name", FOREIGN)
def test_all_else_is_left_to_pillow(name: str) -> None:
    assert decode_jpeg(FOREIGN[name](), 34, 50) is None


def test_a_file_that_reads_as_another_size_is_left_to_pillow() -> None:
    assert decode_jpeg(encode_image(PHOTO, "JPEG"), 50, 34) is None


@pytest.mark.parametrize("progressive", [False, True])
def test_damage_ends_as_it_would_in_pillow_alone(progressive: bool) -> None:
    rng = np.random.default_rng(20_261_124)
    seed = encode_image(photo(60, 44, 5), "JPEG", progressive=progressive, restart_marker_blocks=3)
    outcomes = [_two_outcomes(mutate(seed, rng)) for _ in range(1500)]
    outcomes += [_two_outcomes(seed[:length]) for length in range(len(seed) - 60, len(seed))]
    assert all(together == alone for together, alone in outcomes)
    assert {type(alone) for _, alone in outcomes} == {bytes, str}  # some are decoded, some refused


def _two_outcomes(data: bytes) -> tuple[bytes | str, bytes | str]:
    """Pixels or refusal of `data`, as we decode it and by Pillow alone."""
    with patch.object(image_module, "decode_jpeg", return_value=None):
        alone = _outcome(data)
    return _outcome(data), alone


def _outcome(data: bytes) -> bytes | str:
    try:
        return np.asarray(decode_image(data, exif=True)).tobytes()
    except RejectError as error:
        return str(error)
