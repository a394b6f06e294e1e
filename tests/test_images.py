"""Image vectors are the model library's own, whatever the batch, and what does not fit is said with its setting."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from actors.images import Images
from cluster.errors import RushesError, StageError, UsageError
from cluster.image_model import architecture_config, pixel_spec
from cluster.media.pictures import PictureSpec
from cluster.profiles import ModelChoice, choose, shipped
from cluster.settings import load_settings
from cluster.types import COLUMNS, rows_table, with_column
from cluster.weights_check import distinct, verify
from jobs.cli.main import app
from tests.picture_rows import frame, phash
from tests.tiny_clip import CONFIG, DIMENSION, SIZE, tiny_choice, tiny_clip, tiny_folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that is resized and normalised in other ways than the usual one."""
    half = [0.5, 0.5, 0.5]
    place = tmp_path_factory.mktemp("folder")
    return tiny_folder(place, mean=half, std=half, resize_mode="squash", interpolation="bilinear")


@pytest.fixture
def stage(checkpoint):
    return Images(tiny_choice(checkpoint))


def picture(seed, size=(90, 60)):
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def cut(image, choice):
    """What the reader gives of a picture: resized as the model asks, not normalised."""
    from torchvision.transforms import InterpolationMode, functional

    side, how = choice.image_size, InterpolationMode(choice.image_interpolation)
    resized = functional.resize(image, [side, side] if choice.image_resize == "squash" else side, how)
    return np.asarray(functional.center_crop(resized, [side, side]))


def library_vectors(source, images, **more):
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(source, **more)
    model.eval()
    with torch.inference_mode():
        found = model.encode_image(torch.stack([preprocess(image) for image in images]), normalize=True)
        words = model.encode_text(open_clip.get_tokenizer(source)(["a red car"]), normalize=True)
    return found.numpy(), words.numpy()[0]


def table(rows):
    """Rows of (idx, RGB) with their frames, the pixels in another order."""
    made = rows_table([{"asset_id": number} for number in range(len(rows))])
    frames = [[{**frame(idx, phash(idx), idx)} for idx, _ in row] for row in rows]
    pixels = [[{"idx": idx, "rgb": rgb.tobytes()} for idx, rgb in reversed(row)] for row in rows]
    return with_column(with_column(made, "frames", frames), "pixels", pixels)


def test_the_vectors_are_those_of_the_library_for_a_checkpoint_and_for_a_folder(checkpoint, folder):
    images = [picture(seed, size) for seed, size in enumerate([(90, 60), (60, 90), (32, 32), (500, 33)])]
    for choice, source, more in (
        (tiny_choice(checkpoint), "tiny", {"pretrained": str(checkpoint)}),
        (choose("image", "bundled", {"weights": f"path:{folder}"}, {}), f"local-dir:{folder}", {}),
    ):
        expected, words = library_vectors(source, images, **more)
        stage = Images(choice)
        found = stage.embed_pictures([cut(image, choice) for image in images])
        assert (found.dtype, found.shape) == (np.float32, (4, DIMENSION))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(stage.embed_query("a red car"), words, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_a_turned_photograph_has_the_vector_of_its_upright_picture(checkpoint, reader, tmp_path):
    from PIL import Image, ImageOps

    choice, path, exif = tiny_choice(checkpoint), tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6
    picture(1, (500, 130)).save(path, exif=exif, quality=90)
    pixels = reader.pictures(path, "image", PictureSpec(pixels=pixel_spec(choice)), 60.0).table.column("pixels")
    rgb = np.frombuffer(pixels[0].as_py()[0]["rgb"], np.uint8).reshape(SIZE, SIZE, 3)
    upright = ImageOps.exif_transpose(Image.open(path))
    assert upright.size == (130, 500)
    expected, _ = library_vectors("tiny", [upright], pretrained=str(checkpoint))
    np.testing.assert_allclose(Images(choice).embed_pictures(rgb[None]), expected, atol=1e-5)


def test_a_vector_is_the_same_alone_and_in_any_batch(checkpoint):
    pictures = np.stack([cut(picture(seed), tiny_choice(checkpoint)) for seed in range(7)])
    found = []
    for most in (1, 3, 7):
        stage = Images(tiny_choice(checkpoint, batch_pixels=most * SIZE * SIZE))
        found.append(stage.embed_pictures(pictures))
        assert stage.calls == -(-7 // most)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-5)


def test_a_row_has_a_vector_per_frame_joined_by_its_number(stage):
    rgb = {idx: cut(picture(idx), stage.choice) for idx in range(4)}
    rows = [[(2, rgb[2]), (0, rgb[0])], [], [(1, rgb[1]), (3, rgb[3])]]
    done = stage.process(table(rows))
    assert stage.calls == 1
    assert "pixels" not in done.column_names
    assert done.schema.field("image_vectors").type == COLUMNS["image_vectors"]
    expected = stage.embed_pictures([rgb[idx] for idx in range(4)])
    got = done.column("image_vectors").to_pylist()
    assert [[item["idx"] for item in row] for row in got] == [[2, 0], [], [1, 3]]
    for item in (item for row in got for item in row):
        np.testing.assert_allclose(item["vector"], expected[item["idx"]], atol=1e-5)


def test_pixels_that_are_not_those_of_the_frames_are_refused(stage):
    whole = table([[(0, cut(picture(0), stage.choice)), (1, cut(picture(1), stage.choice))]])
    fewer = [[{"idx": 0, "rgb": b""}]]
    short = [[{"idx": idx, "rgb": bytes(12)} for idx in (0, 1)]]
    twice = [[{"idx": idx, "rgb": bytes(SIZE * SIZE * 3)} for idx in (0, 1, 1)]]
    for pixels, words in (
        (fewer, r"pixels of frames \[0\], but the frames are \[0, 1\]"),
        (short, "frame 0: 12 bytes of pixels are not 32x32 RGB"),
        (twice, "but the frames are"),
        (pa.nulls(1, COLUMNS["pixels"]), "its frames lane has not run"),
    ):
        with pytest.raises(StageError, match=words):
            stage.process(with_column(whole, "pixels", pixels))
    assert stage.calls == 0


def test_a_full_device_halves_the_batch_and_says_whose_setting_helps(checkpoint, monkeypatch):
    stage, sizes = Images(tiny_choice(checkpoint, batch_pixels=8 * SIZE * SIZE)), []
    see = Images._see

    def small(self, pictures, count):
        sizes.append(count)
        if count > limit:
            raise RuntimeError("CUDA out of memory")
        return see(self, pictures, count)

    monkeypatch.setattr(Images, "_see", small)
    limit = 2
    assert stage.embed_pictures(np.zeros((5, SIZE, SIZE, 3), np.uint8)).shape == (5, DIMENSION)
    assert (sizes, stage.halvings) == ([5, 2, 2, 1], 1)
    limit = 0
    with pytest.raises(MemoryError, match="RUSHES_IMAGE_WEIGHTS"):
        stage.embed_pictures(np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_long_and_empty_words_have_a_vector(stage):
    for words in ("", "word " * 500, "日本 \N{GRINNING FACE}"):
        assert np.linalg.norm(stage.embed_query(words)) == pytest.approx(1, abs=1e-5)


def test_the_architecture_fills_in_what_is_not_given(checkpoint, folder, monkeypatch):
    choice = tiny_choice(checkpoint)
    assert (choice.dimension, choice.image_size, choice.engine) == (DIMENSION, SIZE, "open_clip")
    monkeypatch.setenv("RUSHES_IMAGE_WEIGHTS", f"path:{folder}")
    own = load_settings().model_choice("image")
    assert (own.dimension, own.image_resize, own.image_interpolation) == (DIMENSION, "squash", "bilinear")
    assert pixel_spec(own).picture_bytes == SIZE * SIZE * 3
    monkeypatch.setenv("RUSHES_IMAGE_ARCHITECTURE", "ViT-L-14")
    assert load_settings().model_choice("image").dimension == 768


def test_the_role_is_off_until_it_is_named(monkeypatch):
    assert load_settings().optional_choice("image") is None
    assert load_settings().optional_choice("shots") is None
    monkeypatch.setenv("RUSHES_IMAGE_PROFILE", "quality")
    monkeypatch.setenv("RUSHES_SHOTS_PROFILE", "speed")
    choice = load_settings().model_choice("image")
    assert (choice.architecture, choice.dimension, choice.image_size) == ("ViT-L-14", 768, 224)
    assert load_settings().model_choice("shots").engine == "transnetv2"


@pytest.mark.parametrize(("role", "field"), [("image", "ARCHITECTURE"), ("shots", "ENGINE")])
def test_a_model_that_is_named_in_part_does_not_leave_its_role_off_in_silence(role, field, monkeypatch):
    monkeypatch.setenv(f"RUSHES_{role.upper()}_DEVICE", "cpu")
    assert load_settings().optional_choice(role) is None
    monkeypatch.setenv(f"RUSHES_{role.upper()}_{field}", "ViT-B-32")
    with pytest.raises(UsageError, match=f"RUSHES_{role.upper()}_(PROFILE|WEIGHTS)"):
        load_settings().optional_choice(role)


def test_the_shipped_profiles_agree_with_their_architecture():
    for profile in ("speed", "quality"):
        values = shipped()[profile]["image"]
        config = architecture_config(values["architecture"])
        assert values["dimension"] == config["embed_dim"]
        assert values["image_size"] == config["vision_cfg"]["image_size"]


def test_the_shot_detector_is_the_published_one():
    weights = distinct([shipped()[profile]["shots"]["weights"] for profile in ("speed", "quality")])
    assert [verify(name).state for name in weights] == ["whole"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dimension": 48}, "RUSHES_IMAGE_DIMENSION=32"),
        ({"image_size": 64}, "RUSHES_IMAGE_IMAGE_SIZE=32"),
        ({"image_resize": "squash"}, "RUSHES_IMAGE_IMAGE_RESIZE=shortest"),
        ({"image_interpolation": "bilinear"}, "RUSHES_IMAGE_IMAGE_INTERPOLATION=bicubic"),
        ({"architecture": "RN50"}, "does not load as RN50 .*RUSHES_IMAGE_ARCHITECTURE"),
        ({"architecture": None}, "set RUSHES_IMAGE_ARCHITECTURE"),
        ({"architecture": "roberta-ViT-B-32"}, "takes its text model from the hub"),
        ({"engine": "other"}, "RUSHES_IMAGE_ENGINE to open_clip"),
        ({"precision": "int8"}, "RUSHES_IMAGE_PRECISION"),
        ({"weights": "path:/no/such/file.pt"}, "no weights at /no/such/file.pt"),
        ({"weights": f"path:{__file__}"}, "is no checkpoint: set RUSHES_IMAGE_WEIGHTS"),
    ],
)
def test_a_model_that_does_not_fit_the_profile_is_refused_with_the_setting(checkpoint, fields, words):
    with pytest.raises(RushesError, match=words):
        Images(replace(tiny_choice(checkpoint), **fields)).load()


def test_weights_of_another_architecture_than_the_folder_says_are_refused(folder):
    choice = choose("image", "bundled", {"weights": f"path:{folder}", "architecture": "ViT-B-32"}, {})
    with pytest.raises(RushesError, match="holds another model than the architecture ViT-B-32"):
        Images(choice).load()


def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
    for name, content in (("cut.pt", checkpoint.read_bytes()[:5000]), ("no.safetensors", b"nothing")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RushesError, match="does not load"):
            Images(tiny_choice(tmp_path / name)).load()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"weights": "path:/x.pt"}, "set RUSHES_IMAGE_ARCHITECTURE, such as ViT-B-32"),
        ({"weights": "tag:openai"}, "set RUSHES_IMAGE_ARCHITECTURE"),
        ({"weights": "path:/x.pt", "architecture": "ViT-B-33"}, "no architecture 'ViT-B-33'.*ViT-B-32"),
        ({"weights": "path:/x.pt", "architecture": "/no/such.json"}, "/no/such.json is no model config"),
    ],
)
def test_an_unknown_model_is_refused_before_anything_is_loaded(asked, words):
    with pytest.raises(UsageError, match=words):
        choose("image", "bundled", asked, {})


def test_a_tag_is_the_repository_that_was_pulled_and_an_unknown_one_lists_the_known(tmp_path, monkeypatch):
    from cluster import weights

    choice = choose("image", "bundled", {"weights": "tag:laion2b_s34b_b79k", "architecture": "ViT-B-32"}, {})
    assert choice.weights == "tag:ViT-B-32/laion2b_s34b_b79k"
    with pytest.raises(RushesError, match=r"laion2B-s34B-b79K at main is not on this machine.*rushes models pull"):
        Images(choice).identity()
    with pytest.raises(RushesError, match=r"no pretrained tag 'nope' of ViT-B-32: .*laion400m_e31, laion400m_e32"):
        weights.locate("tag:ViT-B-32/nope")
    monkeypatch.setattr(weights, "_hub_root", lambda name, download: tmp_path / f"{'ab' * 20}")
    assert Images(choice).identity()["weights"] == f"hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K@{'ab' * 20}"
    assert weights.hub_name("tag:ViTamin-S/datacomp1b").folder == "pytorch_model.bin"


def test_an_architecture_file_is_known_by_its_content(checkpoint, tmp_path):
    before = Images(tiny_choice(checkpoint)).identity()
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    same.write_text(json.dumps(CONFIG))
    assert Images(tiny_choice(checkpoint, architecture=str(same))).identity() == before
    other.write_text(json.dumps({**CONFIG, "quick_gelu": True}))
    assert Images(tiny_choice(checkpoint, architecture=str(other))).identity() != before
    small = replace(tiny_choice(checkpoint), batch_pixels=1, device="cpu")
    assert Images(small).identity() == before


def test_a_choice_of_an_older_version_is_read_with_the_usual_pixels():
    choice = ModelChoice.from_dict({"role": "text", "profile": "p", "engine": "e", "weights": "w"})
    assert (choice.architecture, choice.image_size, choice.image_resize) == (None, 224, "shortest")


def test_models_and_tags_are_listed_and_pulled_as_far_as_they_can_be(monkeypatch):
    def asked(*words):
        return CliRunner().invoke(app, ["models", *words])

    every = json.loads(asked("list", "--all", "--json").stdout)
    assert {row["profile"] for row in every if row["role"] == "image"} == {"speed", "quality"}
    assert all(row["licence"] == "MIT" for row in every if row["role"] in ("image", "shots"))
    monkeypatch.setenv("RUSHES_IMAGE_WEIGHTS", "tag:openai")
    monkeypatch.setenv("RUSHES_IMAGE_ARCHITECTURE", "ViT-B-32")
    (mine,) = [row for row in json.loads(asked("list", "--json").stdout) if row["role"] == "image"]
    assert (mine["weights"], mine["here"], mine["revision"]) == ("tag:ViT-B-32/openai", False, "")
    pulled = asked("pull")
    assert (pulled.exit_code, "cannot fetch timm/" in pulled.stderr) == (1, True)
