"""Hashes, borders and flat pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dct

from cluster.media.borders import content_box
from cluster.media.look import hash_of
from cluster.media.phash import hamming, phash
from tests.media_factory import shared_media
from tests.picture_factory import jpeg, scene

GREY = Image.fromarray(scene(7, (640, 480))).convert("L")


def reference(grey: Image.Image) -> bytes:
    """`imagehash.phash`, word for word."""
    pixels = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS))
    low = dct(dct(pixels.astype(np.float64), axis=0), axis=1)[:8, :8]
    return np.packbits((low > np.median(low)).flatten()).tobytes()


@pytest.mark.parametrize("number", range(20))
def test_the_hash_is_that_of_imagehash(number):
    grey = Image.fromarray(scene(number, (321 + number, 240))).convert("L")
    assert hash_of(grey)[0] == reference(grey)


def test_the_hash_of_photographs_is_that_of_imagehash():
    for path in sorted((shared_media() / "duplicates").glob("*.jpg")):
        grey = Image.open(path).convert("L")
        assert hash_of(grey) == (reference(grey), True)


def test_pictures_are_hashed_together_as_alone():
    pictures = np.stack([scene(number, (32, 32))[..., 0] for number in range(5)])
    np.testing.assert_array_equal(phash(pictures), np.concatenate([phash(one[None]) for one in pictures]))


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8))
def test_the_distance_counts_bits(one, other):
    bits = [np.unpackbits(np.frombuffer(item, np.uint8)) for item in (one, other)]
    assert hamming(one, other) == int((bits[0] != bits[1]).sum())


@pytest.mark.parametrize(("quality", "scale"), [(50, 1.0), (80, 0.5), (90, 0.3)])
def test_a_compressed_and_scaled_copy_is_near(quality, scale):
    size = round(640 * scale), round(480 * scale)
    copy = Image.open(_stream(jpeg(GREY.resize(size), quality)))
    assert hamming(hash_of(copy)[0], hash_of(GREY)[0]) <= 4


@pytest.mark.parametrize("colour", [0, 16, 255])
@pytest.mark.parametrize(("x", "y"), [(0, 90), (120, 0), (60, 60), (200, 0)])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_uniform_borders_are_cut_from_a_compressed_copy(colour, x, y, scale):
    framed = Image.new("L", (640 + 2 * x, 480 + 2 * y), colour)
    framed.paste(GREY, (x, y))
    copy = Image.open(_stream(jpeg(framed.resize((round(framed.width * scale), round(framed.height * scale))), 70)))
    assert hamming(hash_of(copy)[0], hash_of(GREY)[0]) <= 6


def test_a_sky_is_no_border():
    picture = np.asarray(GREY).copy()
    picture[:200] = np.linspace(200, 150, 200)[:, None]
    assert content_box(picture) == (0, 480, 0, 640)


def test_a_quarter_of_the_area_is_always_left():
    picture = np.zeros((100, 100), np.uint8)
    picture[40:60, 40:60] = np.asarray(GREY)[:20, :20]
    assert content_box(picture) == (0, 100, 0, 100)


@settings(max_examples=200)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(1, 255))
def test_something_is_left_of_every_picture(height, width, seed, top):
    picture = np.random.default_rng(seed).integers(0, top, (height, width)).astype(np.uint8)
    up, down, left, right = content_box(picture)
    assert 0 <= up < down <= height
    assert 0 <= left < right <= width
    assert len(hash_of(Image.fromarray(picture))[0]) == 8


@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_a_flat_picture_says_nothing(level):
    noise = np.random.default_rng(1).normal(level, 2, (480, 640)).clip(0, 255).astype(np.uint8)
    assert not hash_of(Image.fromarray(noise))[1]
    assert hash_of(GREY)[1]


def _stream(data: bytes):
    import io

    return io.BytesIO(data)
