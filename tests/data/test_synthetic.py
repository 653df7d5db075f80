import errno
import functools
import math
import os
import re
import signal
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from PIL import Image

from salcr.data import DATASETS, load_dataset
from salcr.data.synthetic import (
    Paint,
    baseline_rank1,
    raster,
    render_objects,
    render_pedestrian,
    sample_camera,
    sample_identity,
    write_dataset,
)
from salcr.data.synthetic import objects as synthetic_objects
from salcr.data.synthetic import write as synthetic_write
from salcr.data.synthetic.identity import LOWER, PALETTE, UPPER, _luminance
from salcr.data.synthetic.objects import APART, OBJECT_PALETTE
from salcr.data.synthetic.raster import ELLIPSE, SLAB, TEXTURES, TUBE, render, shape
from tests import forked

WHITE, BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
STILL = dict(gain=WHITE, slope=(0.0, 0.0), vignette=0.0, blur=0.0, noise=0.0, noise_seed=0)


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def repaint(thing, change):
    """The same identity with every paint changed."""
    if isinstance(thing, Paint):
        return change(thing)
    values = {f.name: getattr(thing, f.name) for f in fields(thing)}
    return replace(thing, **{name: repaint(v, change) for name, v in values.items() if is_dataclass(v)})


def pictures(identity, camera, count=4, **size):
    size = size or dict(height=96, width=48)
    return np.stack([render_pedestrian(identity, camera, np.random.default_rng(i), **size) for i in range(count)])


def silhouette(kind, start, end, widths, rounding=1.0):
    row = shape(kind, start, end, widths, (WHITE, WHITE), rounding=rounding, shade=0.0)
    return render([row], height=40, width=40, gray=True, **STILL)[..., 0] / 255.0


def test_a_tube_is_what_lies_within_its_width_of_the_axis():
    start, end, radius = np.array([12.3, 9.1]), np.array([25.0, 28.4]), 5.0
    points = np.stack(np.meshgrid(np.arange(40) + 0.5, np.arange(40) + 0.5), axis=-1)
    along = np.clip((points - start) @ (end - start) / ((end - start) ** 2).sum(), 0, 1)
    distance = np.linalg.norm(points - start - along[..., None] * (end - start), axis=-1) - radius
    expected = np.clip(0.5 - distance, 0, 1)
    np.testing.assert_allclose(silhouette(TUBE, start, end, (radius,) * 3), expected, atol=0.005)


def test_areas_of_ellipses_and_slabs():
    ellipse = silhouette(ELLIPSE, (20, 6), (20, 34), (9, 9, 9))
    assert ellipse.sum() == pytest.approx(math.pi * 14 * 9, rel=0.01)
    trapezoid = silhouette(SLAB, (20, 5), (20, 35), (4, 8, 12), rounding=0.0)
    assert trapezoid.sum() == pytest.approx(30 * 16, rel=0.02)
    turned = silhouette(SLAB, (5, 20), (35, 20), (4, 8, 12), rounding=0.0)
    np.testing.assert_allclose(turned, trapezoid.T, atol=0.005)


@pytest.mark.parametrize("texture", range(1, len(TEXTURES)))
def test_a_texture_shows_both_colours_and_only_those(texture):
    row = shape(
        SLAB, (32, 0), (32, 64), (32,) * 3, (WHITE, BLACK), texture=texture, period=12.0, shade=0.0, rounding=0.0
    )
    image = render([row], height=64, width=64, gray=True, **STILL)[8:56, 8:56, 0]
    assert image.min() < 50 and image.max() > 205
    assert 0.1 < image.mean() / 255 < 0.9


def test_stripes_have_their_period_and_direction():
    for name, axis in (("horizontal", 0), ("vertical", 1)):
        row = shape(
            SLAB, (32, 0), (32, 64), (32,) * 3, (WHITE, BLACK), texture=TEXTURES.index(name), period=8.0, shade=0.0
        )
        image = render([row], height=64, width=64, gray=True, **STILL)[..., 0].astype(float)
        profile = image[4:60, 4:60].mean(axis=1 - axis)
        assert image[4:60, 4:60].std(axis=1 - axis).max() < 1
        assert np.abs(np.fft.rfft(profile - profile.mean())).argmax() == 56 // 8


def test_noise_blur_and_gain_of_the_camera():
    wall = [shape(SLAB, (64, -9), (64, 137), (99,) * 3, ((0.5,) * 3, BLACK), shade=0.0)]
    options = dict(height=128, width=128, gray=False)
    noisy = render(wall, **options, **{**STILL, "noise": 0.04, "noise_seed": 5}) / 255.0
    assert noisy.std() == pytest.approx(0.04, rel=0.03) and noisy.mean() == pytest.approx(0.5, abs=0.003)
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.03
    tinted = render(wall, **options, **{**STILL, "gain": (1.2, 1.0, 0.7)})[64, 64]
    np.testing.assert_array_equal(tinted, np.round(255 * 0.5 * np.array([1.2, 1.0, 0.7])))
    edge = [shape(SLAB, (64, -9), (64, 64), (99,) * 3, (WHITE, BLACK), shade=0.0, rounding=0.0)]
    soft = render(edge, **options, **{**STILL, "blur": 1.2})[:, 64, 0] / 255.0
    assert -np.diff(soft) @ (np.arange(127) - 63) ** 2 == pytest.approx(1.2**2, abs=0.1)


def test_an_empty_scene_is_black_and_shapes_may_lie_outside():
    assert not render([], height=9, width=5, gray=False, **STILL).any()
    assert not silhouette(TUBE, (-80, -80), (-50, -60), (5, 5, 5)).any()


@pytest.mark.parametrize("modality", ["visible", "infrared"])
@pytest.mark.parametrize(("height", "width"), [(144, 72), (64, 32), (48, 48), (16, 8)])
def test_pedestrians_are_uint8_images_and_infrared_is_grey(rng, modality, height, width):
    camera = sample_camera(rng, modality, 1)
    image = render_pedestrian(sample_identity(rng), camera, rng, height=height, width=width)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    channels_equal = (image == image[..., :1]).all()
    assert channels_equal == (modality == "infrared")
    assert image.std() > 5


def test_infrared_does_not_see_colour_and_visible_does_not_see_reflectance(rng):
    person = sample_identity(rng)
    recoloured = repaint(person, lambda p: Paint(tuple(1 - c for c in p.color), p.reflectance))
    rematerialed = repaint(person, lambda p: Paint(p.color, 1 - p.reflectance))
    infrared, visible = sample_camera(rng, "infrared", 3), sample_camera(rng, "visible", 3)
    np.testing.assert_array_equal(pictures(person, infrared), pictures(recoloured, infrared))
    np.testing.assert_array_equal(pictures(person, visible), pictures(rematerialed, visible))
    assert (pictures(person, visible) != pictures(recoloured, visible)).mean() > 0.1
    assert (pictures(person, infrared) != pictures(rematerialed, infrared)).mean() > 0.1


@pytest.mark.parametrize("modality", ["visible", "infrared"])
def test_texture_silhouette_and_bag_show_in_both_modalities(rng, modality):
    camera = replace(sample_camera(rng, modality, 2), noise=0.0, view=(0.0, 0.1))
    person = replace(sample_identity(rng), bag="none", logo="none", scarf=False, hair="short")
    upper = replace(person.upper, kind="hoodie", texture=0)
    person = replace(person, upper=upper, lower=replace(person.lower, kind="trousers"))
    plain = pictures(person, camera, height=144, width=72).astype(float)
    striped = replace(person, upper=replace(upper, texture=TEXTURES.index("horizontal"), period=0.095))
    for other, least in (
        (striped, 0.03),
        (replace(person, bag="suitcase"), 0.02),
        (replace(person, lower=replace(person.lower, kind="skirt")), 0.02),
        (replace(person, hip=person.hip * 1.25, shoulder=person.shoulder * 1.25), 0.02),
    ):
        changed = np.abs(pictures(other, camera, height=144, width=72) - plain).max(-1) > 12
        assert changed.mean() > least


def test_identities_rarely_coincide(rng):
    people = [sample_identity(rng) for _ in range(400)]
    shared = [(p.upper.kind, p.upper.texture, p.upper.period, p.lower.kind, p.lower.texture, p.bag) for p in people]
    assert len(set(shared)) > 390
    assert {p.upper.kind for p in people} == set(UPPER) and {p.lower.kind for p in people} == set(LOWER)
    reflectance, luminance = [], []
    for p in people:
        assert abs(p.upper.ground.reflectance - p.upper.pattern.reflectance) >= 0.25 - 1e-9
        assert all(0 <= paint.reflectance <= 1 for paint in (p.upper.pattern, p.lower.pattern))
        reflectance.append(p.upper.ground.reflectance)
        luminance.append(np.mean(p.upper.ground.color))
    assert 0.35 < np.corrcoef(reflectance, luminance)[0, 1] < 0.65


def test_stripes_are_brighter_in_both_modalities_more_often_than_not(rng):
    garments = [sample_identity(rng).upper for _ in range(400)]
    visible, infrared = (
        [np.sign(_luminance(g.pattern.color) - _luminance(g.ground.color)) for g in garments],
        [np.sign(g.pattern.reflectance - g.ground.reflectance) for g in garments],
    )
    assert 0.65 < np.mean(np.equal(visible, infrared)) < 0.85


def test_the_camera_needs_a_modality(rng):
    with pytest.raises(ValueError, match="modality must be 'visible' or 'infrared', got 'thermal'"):
        sample_camera(rng, "thermal", 1)


def test_the_same_arguments_give_the_same_files_whatever_the_threads(tmp_path, monkeypatch):
    options = dict(ids=3, images_per_camera=2, height=48, width=24)
    write_dataset("sysu", tmp_path / "a", **options, seed=4)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    write_dataset("sysu", tmp_path / "b", **options, seed=4)
    write_dataset("sysu", tmp_path / "other", **options, seed=5)
    first = files(tmp_path / "a")
    assert first == files(tmp_path / "b")
    other = files(tmp_path / "other")
    assert all(other[name] != data for name, data in first.items() if name.endswith(".jpg"))
    images = [data for name, data in first.items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images) == 3 * 6 * 2


def test_an_image_does_not_depend_on_how_many_others_there_are(tmp_path):
    size = dict(height=48, width=24, seed=1)
    write_dataset("sysu", tmp_path / "few", ids=3, images_per_camera=1, **size)
    write_dataset("sysu", tmp_path / "many", ids=4, images_per_camera=2, **size)
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    assert all(many[name] == data for name, data in few.items() if name.endswith(".jpg"))


def test_a_rendered_sysu_has_its_split_files_and_names(tmp_path):
    seen = []
    options = dict(ids=7, images_per_camera=2, height=32, width=16)
    write_dataset("sysu", tmp_path / "set", **options, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 7 * 6 * 2) for n in range(1, 7 * 6 * 2 + 1)]
    split = {name: (tmp_path / f"set/exp/{name}_id.txt").read_text() for name in ("train", "val", "test")}
    assert all(re.fullmatch(r"\d+(,\d+)*\n", line) for line in split.values())
    ids = {name: set(map(int, line.split(","))) for name, line in split.items()}
    assert [len(ids[name]) for name in ("train", "val", "test")] == [4, 1, 2]
    assert ids["train"] | ids["val"] | ids["test"] == set(range(1, 8))
    with Image.open(tmp_path / "set/cam3/0007/0002.jpg") as image:
        pixels = np.asarray(image)
        assert image.format == "JPEG" and pixels.shape == (32, 16, 3) and (pixels == pixels[..., :1]).all()
    data = load_dataset("sysu", tmp_path / "set")
    assert len(data.train_visible) == 5 * 4 * 2 and len(data.train_infrared) == 5 * 2 * 2
    assert len(data.test) == 2 * 6 * 2 and set(data.test.ids) == ids["test"]


def test_a_rendered_regdb_has_its_split_files_and_names(tmp_path):
    write_dataset("regdb", tmp_path / "set", ids=6, test_ids=3, images_per_camera=2, height=32, width=16)
    tests = set()
    for trial in range(1, 11):
        people = {}
        for part in ("train", "test"):
            lists = []
            for modality in ("visible", "thermal"):
                lines = (tmp_path / f"set/idx/{part}_{modality}_{trial}.txt").read_text().splitlines()
                pairs = [line.split(" ") for line in lines]
                assert all((tmp_path / "set" / path).is_file() for path, _ in pairs)
                assert sorted(int(label) for _, label in pairs) == [0, 0, 1, 1, 2, 2]
                lists.append({(path.split("/")[1], int(label)) for path, label in pairs})
            assert lists[0] == lists[1] and len(lists[0]) == 3
            people[part] = {person for person, _ in lists[0]}
        assert not people["train"] & people["test"]
        tests.add(frozenset(people["test"]))
    assert len(tests) > 3
    data = load_dataset("regdb", tmp_path / "set", trial=10)
    assert len(data.train_visible) == len(data.train_infrared) == 3 * 2
    assert set(data.test.cams) == {1, 2} and data.test.paths[0].startswith("Visible/")


def test_a_rendered_llcm_has_its_split_files_and_names(tmp_path):
    write_dataset("llcm", tmp_path / "set", ids=4, images_per_camera=1, height=32, width=16)
    data = load_dataset("llcm", tmp_path / "set")
    assert len(data.train_visible) == 3 * 9 and len(data.train_infrared) == 3 * 8 and len(data.test) == 17
    assert set(data.train_infrared.cams) == {1, 2, 4, 5, 6, 7, 8, 9} and set(data.train_visible.ids) == {0, 1, 2}
    names = {}
    for path in (tmp_path / "set").rglob("*.jpg"):
        found = re.fullmatch(r"(\d+)_c(\d+)_s(\d+)_f(\d+)_(vis|nir)\.jpg", path.name)
        assert int(found[1]) == int(path.parent.name) and found[5] in str(path.relative_to(tmp_path))
        names.setdefault(found[5], set()).add(int(found[2]))
        if path.parent.parent.name.startswith("cam"):
            assert path.parent.parent.name == f"cam{int(found[2])}"
    assert names == {"vis": set(range(1, 10)), "nir": {1, 2, 4, 5, 6, 7, 8, 9}}
    assert len(DATASETS["llcm"].layout.cameras) == 17


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(layout="market"), "layout must be one of sysu, regdb, llcm, .*got 'market'"),
        (dict(ids=2), "ids must be at least 3, got 2"),
        (dict(images_per_camera=0), "images_per_camera must be at least 1, got 0"),
        (dict(test_ids=0), "test_ids must be between 1 and 2"),
        (dict(test_ids=3), "test_ids must be between 1 and 2"),
        (dict(seed=-1), "seed must be at least 0, got -1"),
        (dict(height=4), "height must be at least 16, got 4"),
    ],
)
def test_bad_arguments_are_named(tmp_path, change, message):
    arguments = {"layout": "sysu", "ids": 4, "images_per_camera": 1, **change}
    with pytest.raises(ValueError, match=message):
        write_dataset(arguments.pop("layout"), tmp_path / "set", **arguments)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept_unless_empty(tmp_path):
    options = dict(ids=3, images_per_camera=1, height=16, width=8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(FileExistsError, match=f"out already exists.*{name}"):
            write_dataset("sysu", tmp_path / name, **options)
    assert files(tmp_path) == {"full/note": b"mine", "file": b"mine"}
    (tmp_path / "empty").mkdir()
    write_dataset("sysu", tmp_path / "empty", **options)
    assert (tmp_path / "empty/exp/test_id.txt").is_file()


def test_a_disk_that_fills_is_told_with_the_file_and_nothing_is_left(tmp_path, monkeypatch):
    real, room = Image.Image.save, iter(range(5))

    def save(image, file, **options):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(image, file, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match=r"cannot write the file: No space left on device: '.*cam\d/000\d/000\d\.jpg'"):
        write_dataset("sysu", tmp_path / "set", ids=9, images_per_camera=3, height=16, width=8)
    assert not list(tmp_path.iterdir())


def write_and_be_killed(folder):
    kill = lambda done, total: signal.raise_signal(signal.SIGKILL) if done == 5 else None  # noqa: E731
    write_dataset("sysu", folder, ids=9, images_per_camera=3, height=16, width=8, progress=kill)


def test_a_kill_in_the_middle_leaves_no_data_set(tmp_path_factory, tmp_path):
    log = tmp_path_factory.mktemp("log") / "log"
    process = forked.start(write_and_be_killed, tmp_path / "set", log=log)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and re.fullmatch(r"\.set\..*\.partial", left[0].name)
    write_dataset("sysu", tmp_path / "set", ids=3, images_per_camera=1, height=16, width=8)
    assert (tmp_path / "set").is_dir()


@pytest.mark.parametrize("seed_of_set", [0, 1])
def test_pixels_and_histograms_do_not_solve_it(tmp_path, seed_of_set):
    write_dataset("sysu", tmp_path / "set", ids=48, test_ids=24, images_per_camera=2, seed=seed_of_set)
    found = baseline_rank1(tmp_path / "set")
    assert found.pop("chance") == pytest.approx(100 / 24)
    assert set(found) == {"pixel_cosine", "raw_pixel_cosine", "histogram"}
    assert all(value < 25 for value in found.values()), found


def test_baselines_find_what_is_easy(tmp_path, rng):
    """Each person a flat grey of their own: centred pixels (noise only) fail, histograms do not."""
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp/test_id.txt").write_text("2,5,9\n")
    for person, level in ((2, 40), (5, 120), (9, 200), (7, 119)):
        for camera in range(1, 7):
            (tmp_path / f"cam{camera}/{person:04d}").mkdir(parents=True)
            pixels = np.repeat(level + rng.integers(-4, 5, (48, 24, 1)), 3, axis=2).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"cam{camera}/{person:04d}/0001.jpg", quality=95)
    found = baseline_rank1(tmp_path)
    assert found["histogram"] == 100 and found["chance"] == pytest.approx(100 / 3)
    for camera in range(1, 7):
        for person, columns in ((2, slice(0, 8)), (5, slice(8, 16)), (9, slice(16, 24))):
            pixels = np.full((48, 24, 3), 90, dtype=np.uint8)
            pixels[:, columns] = 160
            Image.fromarray(pixels).save(tmp_path / f"cam{camera}/{person:04d}/0001.jpg", quality=95)
    found = baseline_rank1(tmp_path)
    assert found["pixel_cosine"] == found["raw_pixel_cosine"] == 100


def test_objects_are_labelled_reproducible_and_distinct():
    images, labels = render_objects(5, 4, height=48, width=24, seed=3)
    assert images.shape == (20, 48, 24, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and labels.tolist() == sorted([0, 1, 2, 3, 4] * 4)
    fewer, _ = render_objects(2, 4, height=48, width=24, seed=3)
    np.testing.assert_array_equal(fewer, images[:8])
    other, _ = render_objects(2, 4, height=48, width=24, seed=4)
    assert (other != fewer).mean() > 0.5
    assert len({image.tobytes() for image in images}) == 20


def scenes(place, monkeypatch, draw):
    """The scenes that ``place``, a module that calls ``render``, has rasterised during ``draw()``."""
    seen, paint = [], place.render
    with monkeypatch.context() as patch:
        patch.setattr(place, "render", lambda scene, **options: seen.append(scene) or paint(scene, **options))
        draw()
    return seen


def test_pretraining_shows_nothing_of_the_people(rng, monkeypatch):
    """Neither textures, nor palette entries, nor places, nor random streams of the demo's people."""

    def people():
        for n in range(80):
            camera = sample_camera(rng, "visible", n)
            render_pedestrian(sample_identity(rng), camera, rng, height=32, width=16)

    def objects():
        monkeypatch.setattr("salcr.data.synthetic.camera._place", None)
        render_objects(40, 2, height=32, width=16, seed=0)

    worn = {int(row[9]) for scene in scenes(raster, monkeypatch, people) for row in scene}
    shown = {int(row[9]) for scene in scenes(synthetic_objects, monkeypatch, objects) for row in scene}
    assert worn == set(range(12)) and shown == set(range(12, len(TEXTURES)))
    apart = np.abs(np.array(OBJECT_PALETTE)[:, None] - np.array(PALETTE)).max(2)
    assert apart.min() > APART and len(OBJECT_PALETTE) > 2 * len(PALETTE)
    assert np.ptp(OBJECT_PALETTE, axis=0).min() > 0.85
    streams = {synthetic_objects._CLASS, synthetic_objects._INSTANCE}
    assert not streams & set(range(synthetic_write._IMAGE + 1))


def test_half_of_the_classes_come_in_other_colours_in_half_of_their_views(monkeypatch):
    """Which views show a class in its own colours, of 20 classes and 8 views each."""
    own = []
    for seed in range(20):
        parts = synthetic_objects._sample_class(np.random.default_rng([seed, synthetic_objects._CLASS, 0]))
        colours = {(*part.colors[0], *part.colors[1]) for part in parts}
        draw = functools.partial(render_objects, 1, 8, height=16, width=8, seed=seed)
        own.append([colours <= {row[-6:] for row in scene} for scene in scenes(synthetic_objects, monkeypatch, draw)])
    shares = np.mean(own, axis=1)
    assert 4 < (shares == 1).sum() < 16
    assert 0.2 < shares[shares < 1].mean() < 0.8


def test_objects_need_positive_numbers():
    with pytest.raises(ValueError, match="per_class must be at least 1, got 0"):
        render_objects(2, 0, height=16, width=8, seed=0)
