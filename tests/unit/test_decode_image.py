"""Images come out as the reference sees them, upright if wished, or are refused by the right code."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.config import DecodeConfig
from pipeline.decode import image as image_module
from pipeline.decode.image import decode_image, image_size, resize_image
from pipeline.errors import RejectCode, RejectError
from tests.fixtures.media import clip, cut, encode_image, encode_video, huge_png, photo, screenshot

PHOTO = photo(50, 34, 7)
LOSSLESS: dict[str, dict[str, bool]] = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "WEBP": {"lossless": True, "exact": True},
}


def _rgba() -> Image.Image:
    alpha = np.linspace(0, 255, PHOTO.shape[0] * PHOTO.shape[1]).reshape(PHOTO.shape[:2]).astype(np.uint8)
    return Image.fromarray(np.dstack([PHOTO, alpha]))


def _palette() -> Image.Image:
    return Image.fromarray(PHOTO).quantize(16)


CONTENTS: dict[str, Image.Image] = {
    "RGB": Image.fromarray(PHOTO),
    "L": Image.fromarray(PHOTO).convert("L"),
    "1": Image.fromarray(PHOTO).convert("1"),
    "LA": _rgba().convert("LA"),
    "RGBA": _rgba(),
    "P": _palette(),
    "CMYK": Image.fromarray(PHOTO).convert("CMYK"),
    "I;16": Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 2),
    "screenshot": Image.fromarray(screenshot(200, 160)),
}

HELD = {
    "JPEG": ("RGB", "L", "CMYK", "screenshot"),
    "PNG": ("RGB", "L", "1", "LA", "RGBA", "P", "I;16", "screenshot"),
    "WEBP": ("RGB", "RGBA", "screenshot"),
    "GIF": ("L", "1", "P"),
    "BMP": ("RGB", "L", "1", "P", "RGBA"),
    "TIFF": ("RGB", "L", "1", "LA", "RGBA", "P", "CMYK", "I;16"),
    "AVIF": ("RGB", "RGBA", "screenshot"),
    "HEIF": ("RGB", "L", "RGBA", "screenshot"),
}


def _reference(data: bytes) -> Image.Image:
    """What the model's reference does with an opened picture."""
    opened = Image.open(io.BytesIO(data))
    if opened.mode == "RGBA":
        white = Image.new("RGB", opened.size, (255, 255, 255))
        white.paste(opened, mask=opened.split()[3])
        return white
    return opened.convert("RGB")


def _code(data: bytes, limits: DecodeConfig | None = None) -> RejectCode:
    with pytest.raises(RejectError) as caught:
        decode_image(data, exif=True, limits=limits or DecodeConfig())
    assert "0x" not in caught.value.detail
    return caught.value.code


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, held in HELD.items() for content in held])
def test_every_format_and_content_equals_the_reference(name: str, content: str) -> None:
    data = encode_image(CONTENTS[content], name)
    assert np.array_equal(np.asarray(decode_image(data, exif=False)), np.asarray(_reference(data)))


@pytest.mark.parametrize(("name", "options"), LOSSLESS.items())
def test_lossless_formats_give_the_very_pixels(name: str, options: dict[str, bool]) -> None:
    assert np.array_equal(np.asarray(decode_image(encode_image(PHOTO, name, **options), exif=True)), PHOTO)


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_alpha_is_laid_on_white(name: str) -> None:
    pixel = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode_image(encode_image(pixel, name), exif=True).getpixel((4, 4)) == (255, 255, 255)


def test_other_transparency_is_dropped_as_the_reference_drops_it() -> None:
    palette = _palette()
    data = encode_image(palette, "PNG", transparency=0)
    assert np.array_equal(np.asarray(decode_image(data, exif=True)), np.asarray(palette.convert("RGB")))
    grey = Image.new("LA", (8, 8), (90, 0))
    assert decode_image(encode_image(grey, "PNG"), exif=True).getpixel((0, 0)) == (90, 90, 90)


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_animations_give_their_first_frame(name: str) -> None:
    first, *others = [Image.fromarray(frame) for frame in clip(4, 48, 32, 2)]
    data = encode_image(first, name, save_all=True, append_images=others)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 4
    difference = np.abs(np.asarray(decode_image(data, exif=True)).astype(int) - np.asarray(first))
    assert difference.mean() < 15  # a GIF has 256 colours; the next frame differs by far more
    assert abs(int(np.asarray(decode_image(data, exif=True))[:12, :12].mean())) < 4


def test_a_phone_s_picture_pair_is_a_jpeg() -> None:
    pair = encode_image(Image.fromarray(PHOTO), "MPO", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])])
    assert np.array_equal(np.asarray(decode_image(pair, exif=True)), np.asarray(_reference(pair)))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_eight_orientations(name: str, orientation: int) -> None:
    data = encode_image(PHOTO, name, orientation=orientation)
    upright = decode_image(data, exif=True)
    opened = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(upright), np.asarray(opened))
    assert image_size(upright) == ((50, 34) if orientation >= 5 else (34, 50))
    assert np.array_equal(np.asarray(decode_image(data, exif=False)), np.asarray(_reference(data)))


def test_orientation_applies_before_alpha_is_composited() -> None:
    data = encode_image(_rgba(), "PNG", orientation=6)
    straight = np.asarray(decode_image(data, exif=False))
    assert np.array_equal(np.asarray(decode_image(data, exif=True)), np.rot90(straight, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # from the reference's side of the comparison
@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05junk"])
def test_a_damaged_exif_block_costs_no_picture(block: bytes) -> None:
    data = encode_image(PHOTO, "JPEG", exif=block)
    assert np.array_equal(np.asarray(decode_image(data, exif=True)), np.asarray(_reference(data)))


@pytest.mark.parametrize("orientation", [0, 9, 60_000])
def test_orientations_that_do_not_exist_turn_nothing(orientation: int) -> None:
    assert image_size(decode_image(encode_image(PHOTO, "JPEG", orientation=orientation), exif=True)) == (
        34,
        50,
    )


def test_resize_is_pillow_s_own() -> None:
    picture = decode_image(encode_image(PHOTO, "PNG"), exif=True)
    resized = resize_image(picture, 64, 96)
    assert resized.shape == (64, 96, 3)
    assert resized.dtype == np.uint8
    expected = picture.resize((96, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(resized, np.asarray(expected))


def _bombs() -> dict[str, bytes]:
    bmp = bytearray(encode_image(PHOTO, "BMP"))
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    gif = bytearray(encode_image(PHOTO, "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    jpeg = bytearray(encode_image(PHOTO, "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", 60_000, 60_000)
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + (16_382).to_bytes(3, "little") * 2
    tiff = bytearray(encode_image(PHOTO, "TIFF"))
    tiff = bytearray(bytes(tiff).replace(struct.pack("<HHII", 256, 4, 1, 50), struct.pack("<HHII", 256, 4, 1, 50_000)))
    tiff = bytearray(bytes(tiff).replace(struct.pack("<HHII", 257, 4, 1, 34), struct.pack("<HHII", 257, 4, 1, 50_000)))
    return {
        "png": huge_png(20_000, 20_000),
        "thin png": huge_png(2, 2_000_000_000),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "jpeg": bytes(jpeg),
        "webp": b"RIFF" + struct.pack("<I", len(webp) + 8) + webp + b"VP8 " + bytes(32),
        "tiff": bytes(tiff),
    }


@pytest.mark.parametrize("name", ["png", "thin png", "bmp", "gif", "jpeg", "tiff"])
def test_declared_size_is_judged_before_any_pixel(name: str) -> None:
    started = time.thread_time()
    assert _code(_bombs()[name]) is RejectCode.IMAGE_TOO_LARGE
    assert time.thread_time() - started < 1


def test_a_bomb_without_a_picture_is_damage() -> None:
    assert _code(_bombs()["webp"]) in {RejectCode.IMAGE_TOO_LARGE, RejectCode.IMAGE_UNREADABLE}


def test_sizes_that_pillow_only_warns_of_are_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    # 100 MP cameras exist: such a file is read (here it is damaged, and says so) once the limit is raised for it.
    limits = DecodeConfig(max_image_pixels=150_000_000)
    # As `settle_limits` would have it; that is the process's, and other tests may have left it lower.
    with patch.object(Image, "MAX_IMAGE_PIXELS", limits.max_image_pixels // 2):
        assert _code(huge_png(12_000, 12_000), limits) is RejectCode.IMAGE_UNREADABLE
        assert _code(huge_png(12_000, 12_000)) is RejectCode.IMAGE_TOO_LARGE
    # What an earlier test left open may be collected just now, and is warned of then.
    assert [each for each in recwarn.list if not issubclass(each.category, ResourceWarning)] == []


def test_our_own_cap_holds_when_pillow_s_is_off() -> None:
    with patch.object(Image, "MAX_IMAGE_PIXELS", None):
        assert _code(huge_png(20_000, 20_000)) is RejectCode.IMAGE_TOO_LARGE


def test_a_text_chunk_bomb_is_refused_unread() -> None:
    text = zlib.compress(bytes(64 << 20), 9)
    started = time.thread_time()
    assert _code(huge_png(8, 8, (b"zTXt", b"k\0\0" + text))) is RejectCode.IMAGE_TOO_LARGE
    assert time.thread_time() - started < 1


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_truncated_files_are_refused(name: str, fraction: float) -> None:
    assert _code(cut(encode_image(photo(120, 90, 3), name), fraction)) is RejectCode.IMAGE_UNREADABLE


def test_empty_foreign_and_misplaced_bytes() -> None:
    assert _code(b"") is RejectCode.EMPTY_MEDIA
    assert _code(b"<svg/>") is RejectCode.UNSUPPORTED_FORMAT
    assert _code(encode_image(PHOTO, "PPM")) is RejectCode.UNSUPPORTED_FORMAT
    with pytest.raises(RejectError, match="video column"):
        decode_image(encode_video(clip(3, 64, 48, 1)), exif=True)


def test_heic_without_its_extra_names_the_extra() -> None:
    data = encode_image(PHOTO, "HEIF")
    image_module._register_heif.cache_clear()
    try:
        # Not `patch.dict`, which would also forget every module that is imported meanwhile.
        with pytest.MonkeyPatch.context() as without:
            without.setitem(sys.modules, "pillow_heif", None)
            with pytest.raises(RejectError, match=r"lakevec\[heif\]") as caught:
                decode_image(data, exif=True)
    finally:
        image_module._register_heif.cache_clear()
    assert caught.value.code is RejectCode.UNSUPPORTED_FORMAT


def test_decoding_processes_stay_without_torch() -> None:
    program = (
        "import sys, pipeline.sniff, pipeline.decode.image, pipeline.decode.video, pipeline.decode.resize\n"
        "sys.exit(any(name.split('.')[0] in ('torch', 'torchvision', 'transformers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
