"""Still images of every kind, good and bad, through the media child."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pi_heif
import pytest
from PIL import Image

from cluster.errors import BadMediaError
from cluster.media.child import MediaChild
from cluster.media.inputs import MEDIA_SUFFIXES
from cluster.media.look import pixels
from cluster.media.pictures import PictureSpec, PixelSpec
from cluster.media.stills import _by_ffmpeg, read_still, still_header
from tests.media_factory import shared_media, tone, write_wav
from tests.media_reader import DEADLINE_S
from tests.picture_factory import HEIC, HEIC_TURNED, apart, jpeg, scene, tiled_heic, write_film

SIZE = (96, 64)
PICTURE = Image.fromarray(scene(3, SIZE))
SPEC = PictureSpec(pixels=PixelSpec(32))
WRITTEN = {
    "jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "apng": "PNG", "gif": "GIF", "webp": "WEBP", "bmp": "BMP",
    "dib": "DIB", "tif": "TIFF", "tiff": "TIFF", "ppm": "PPM", "jp2": "JPEG2000", "j2k": "JPEG2000",
    "avif": "AVIF", "qoi": "QOI", "ico": "ICO", "mpo": "MPO",
}  # fmt: skip


def saved(path: Path, image: Image.Image, form: str | None = None, **options) -> Path:
    image.save(path, form, **options)
    return path


def taken(reader: MediaChild, path: Path) -> dict:
    found = reader.probe(path, DEADLINE_S)
    assert found.kind == "image"
    row = reader.pictures(path, found.kind, SPEC, DEADLINE_S).table.to_pylist()[0]
    assert row["picture_size"] == {"width": found.width, "height": found.height}
    return row


@pytest.mark.parametrize("suffix", WRITTEN)
def test_every_common_format_becomes_one_frame(reader, tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", PICTURE, WRITTEN[suffix])
    row = taken(reader, path)
    (frame,), (thumbnail,), (square,) = row["frames"], row["thumbnails"], row["pixels"]
    assert (row["shots"], row["samples"]) == ([], [{"t_ms": 0, "phash": frame["phash"]}])
    timed = [frame[name] for name in ("idx", "shot", "pts", "time_base_num", "time_base_den", "t_ms")]
    assert timed == [0, None, 0, 1, 1000, 0]
    shown = Image.open(io.BytesIO(thumbnail["jpeg"]))
    assert row["picture_size"]["width"] / row["picture_size"]["height"] == pytest.approx(1.5, abs=0.05)
    assert apart(shown.resize(SIZE), PICTURE) < 12
    assert (len(square["rgb"]), f".{suffix}" in MEDIA_SUFFIXES) == (32 * 32 * 3, True)


def test_the_name_does_not_decide(reader, tmp_path):
    path = saved(tmp_path / "a.png", PICTURE).rename(tmp_path / "a.mp4")
    assert taken(reader, path)["picture_size"] == {"width": 96, "height": 64}


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_shown_upright(reader, tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    stored = PICTURE
    for way in undo:
        stored = stored.transpose(Image.Transpose(way))
    path = saved(tmp_path / f"a.{suffix}", stored, exif=exif, quality=95)
    row = taken(reader, path)
    assert row["picture_size"] == {"width": 96, "height": 64}
    assert apart(read_still(str(path))[0], PICTURE) < 3


def test_a_picture_of_a_phone_is_upright(reader, tmp_path):
    (tmp_path / "a.heic").write_bytes(HEIC)
    (tmp_path / "b.heic").write_bytes(HEIC_TURNED)
    flat, turned = taken(reader, tmp_path / "a.heic"), taken(reader, tmp_path / "b.heic")
    assert flat["picture_size"] == {"width": 96, "height": 64}
    assert turned["picture_size"] == {"width": 64, "height": 96}
    upright = read_still(str(tmp_path / "a.heic"))[0].rotate(-90, expand=True)
    assert apart(read_still(str(tmp_path / "b.heic"))[0], upright) < 3


def test_avif_is_known_by_any_of_its_brands(reader, tmp_path):
    data = saved(tmp_path / "a.avif", PICTURE).read_bytes()
    assert data[8:12] == b"avif"
    (tmp_path / "b.avif").write_bytes(data[:8] + b"mif1" + data[12:])
    assert taken(reader, tmp_path / "b.avif") == taken(reader, tmp_path / "a.avif")


def test_the_tiles_of_a_phone_are_joined(reader, tmp_path):
    (tmp_path / "one.heic").write_bytes(HEIC)
    (tmp_path / "tiled.heic").write_bytes(tiled_heic())
    assert (reader.probe(tmp_path / "tiled.heic", DEADLINE_S).kind) == "image"
    assert taken(reader, tmp_path / "tiled.heic")["picture_size"] == {"width": 192, "height": 64}
    whole = read_still(str(tmp_path / "tiled.heic"))[0]
    one = read_still(str(tmp_path / "one.heic"))[0]
    for left in (0, 96):
        assert apart(whole.crop((left, 0, left + 96, 64)), one) < 3


def test_a_picture_of_a_phone_is_decoded_by_the_thread_that_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(pi_heif.options, "DECODE_THREADS", 4)
    (tmp_path / "a.heic").write_bytes(tiled_heic())
    read_still(str(tmp_path / "a.heic"))
    assert pi_heif.options.DECODE_THREADS == 0


def test_one_tile_is_never_taken_for_the_picture(tmp_path):
    path = tmp_path / "a.heic"
    path.write_bytes(tiled_heic())
    with pytest.raises(BadMediaError, match="made of tiles"):
        _by_ffmpeg(str(path))


def test_transparent_pixels_lie_over_white(tmp_path):
    clear = PICTURE.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 48, 64))
    palette = Image.new("P", SIZE, 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    grey = Image.merge("LA", (Image.new("L", SIZE, 0), Image.new("L", SIZE, 0)))
    for image, options in ((clear, {}), (palette, {"transparency": 0}), (grey, {})):
        found, _ = read_still(str(saved(tmp_path / "a.png", image, **options)))
        assert (found.mode, found.getpixel((10, 10))) == ("RGB", (255, 255, 255))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_every_colour_model_becomes_rgb(tmp_path, mode):
    from PIL import ImageCms

    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(PICTURE, *profiles, outputMode="LAB")
    else:
        image = PICTURE.convert(mode)
    path = saved(tmp_path / "a.tif", image, **({"compression": "jpeg"} if mode == "YCbCr" else {}))
    found, _ = read_still(str(path))
    assert apart(found.convert("L"), PICTURE.convert("L")) < (128 if mode == "1" else 16)


def test_deep_grey_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65_535, 96 * 64).reshape(64, 96)
    wanted = Image.fromarray(np.rint(ramp / 257).astype(np.uint8))
    deep = Image.fromarray(ramp.astype(np.uint16))
    cases = {
        "a.png": deep,
        "a.tif": deep,
        "b.tif": Image.fromarray((ramp / 65_535).astype(np.float32)),
        "c.tif": Image.fromarray(ramp.astype(np.int32)),
    }
    for name, image in cases.items():
        found, _ = read_still(str(saved(tmp_path / name, image)))
        assert apart(found, wanted) <= 0.5, name


@pytest.mark.parametrize(("suffix", "form"), [("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("avif", "AVIF")])
def test_an_animated_image_is_an_image_of_its_first_frame(reader, tmp_path, suffix, form):
    more = [Image.fromarray(scene(number, SIZE)) for number in (4, 5)]
    path = saved(tmp_path / f"a.{suffix}", PICTURE, form, save_all=True, append_images=more, duration=200)
    assert len(taken(reader, path)["frames"]) == 1
    assert apart(read_still(str(path))[0], PICTURE) < 12


def test_when_and_how_large_comes_from_the_camera(reader, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    inner = exif.get_ifd(0x8769)
    inner[0x9003], inner[0x9011] = "2024:03:09 15:30:00", "+02:00"
    found = reader.probe(saved(tmp_path / "a.jpg", PICTURE, exif=exif), DEADLINE_S)
    assert (found.width, found.height, found.recorded_at) == (64, 96, "2024-03-09T15:30:00+02:00")
    inner[0x9003], inner[0x9011] = "0000:00:00 00:00:00", "junk"
    assert reader.probe(saved(tmp_path / "b.jpg", PICTURE, exif=exif), DEADLINE_S).recorded_at is None


def test_the_header_of_a_png_is_read_without_its_picture_wherever_the_camera_wrote(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2024:03:09 15:30:00"
    before = saved(tmp_path / "a.png", PICTURE, exif=exif)
    data = before.read_bytes()
    start, end = data.index(b"eXIf") - 4, data.index(b"IEND") - 4
    length = 12 + int.from_bytes(data[start : start + 4], "big")
    behind, bare = tmp_path / "b.png", saved(tmp_path / "c.png", PICTURE)
    behind.write_bytes(data[:start] + data[start + length : end] + data[start : start + length] + data[end:])
    assert read_still(str(behind))[0].size == (64, 96)
    decoded = []
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decoded.append)
    told = [still_header(str(path)) for path in (before, behind, bare)]
    assert [(one.width, one.height, one.taken_at) for one, _ in told] == [
        (64, 96, "2024-03-09T15:30:00"),
        (64, 96, "2024-03-09T15:30:00"),
        (96, 64, None),
    ]
    assert decoded == []


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(640, 480), (480, 641), (223, 224), (50, 3), (33, 900)])
def test_pixels_are_those_of_open_clip(resize, size):
    from open_clip.transform import image_transform

    picture = Image.fromarray(scene(2, size))
    theirs = image_transform(64, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=resize)(picture)
    ours = np.frombuffer(pixels(picture, PixelSpec(64, resize)), np.uint8).reshape(64, 64, 3)
    np.testing.assert_array_equal(ours, np.rint(theirs.numpy().transpose(1, 2, 0) * 255).astype(np.uint8))


def test_pixels_of_a_strip_take_no_more_than_its_middle():
    strip = Image.fromarray(np.full((2, 60_000, 3), 90, np.uint8))
    assert set(pixels(strip, PixelSpec(224))) == {90}


def png(width: int, height: int) -> bytes:
    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", body) + part(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded(reader, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(40_000, 40_000))
    limit = Image.MAX_IMAGE_PIXELS
    for ask in (reader.probe, lambda *args: reader.pictures(args[0], "image", SPEC, args[1])):
        with pytest.raises(BadMediaError, match="40000 x 40000 pixels is larger than the 268,435,456"):
            ask(path, DEADLINE_S)
    with pytest.raises(BadMediaError):
        read_still(str(path))
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif", "ppm", "jp2", "avif", "qoi"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.9])
def test_a_truncated_image_is_bad_media(reader, tmp_path, suffix, share):
    noisy = Image.fromarray(np.random.default_rng(1).integers(0, 255, (300, 300, 3), np.uint8))
    whole = saved(tmp_path / f"whole.{suffix}", noisy, WRITTEN[suffix]).read_bytes()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole[: max(4, int(len(whole) * share))])
    with pytest.raises(BadMediaError):
        reader.pictures(path, "image", SPEC, DEADLINE_S)
    assert reader.pictures(tmp_path / f"whole.{suffix}", "image", SPEC, DEADLINE_S).table.num_rows == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif", "jp2", "avif", "qoi"])
def test_a_corrupt_image_is_read_or_refused(reader, tmp_path, suffix):
    whole = bytearray(saved(tmp_path / f"whole.{suffix}", PICTURE, WRITTEN[suffix]).read_bytes())
    random = np.random.default_rng(2)
    path = tmp_path / f"a.{suffix}"
    for _ in range(12):
        damaged = whole.copy()
        for at in random.integers(0, len(damaged), 6):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(BadMediaError):
            assert len(reader.pictures(path, "image", SPEC, DEADLINE_S).table["frames"][0]) == 1


@pytest.mark.parametrize(
    "content", [b"", b"words\n" * 300, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"P6"]
)
def test_what_is_no_image_is_bad_media(reader, tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(BadMediaError):
        reader.probe(path, DEADLINE_S)
    with pytest.raises(BadMediaError):
        reader.pictures(path, "image", SPEC, DEADLINE_S)


def test_a_polyglot_is_what_its_first_bytes_say(reader, tmp_path):
    film = write_film(tmp_path / "film.mp4", [scene(1)] * 5).read_bytes()
    path = tmp_path / "motion.jpg"
    path.write_bytes(jpeg(PICTURE) + film)
    assert taken(reader, path)["picture_size"] == {"width": 96, "height": 64}
    sound = write_wav(tmp_path / "a.wav", tone(1)).read_bytes()
    (tmp_path / "b.jpg").write_bytes(sound + jpeg(PICTURE))
    assert reader.probe(tmp_path / "b.jpg", DEADLINE_S).kind == "audio"
    with pytest.raises(BadMediaError, match="no picture"):
        reader.pictures(tmp_path / "b.jpg", "image", SPEC, DEADLINE_S)


def test_photographs(reader):
    for path in sorted((shared_media() / "duplicates").glob("*.jpg")):
        row = taken(reader, path)
        assert row["frames"][0]["is_informative"]
        again = reader.pick(path, "image", row["frames"], SPEC, DEADLINE_S).table.to_pylist()[0]
        assert (again["pixels"], again["frames"], again["samples"]) == (row["pixels"], row["frames"], None)
