import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from components.data.augmentation import TrainAugmentation
from components.data.config import LoaderConfig


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_augmentation_is_decided_by_the_generator_alone() -> None:
    image = photo(80, 120)
    augment = TrainAugmentation(64, LoaderConfig(min_scale=0.3))
    views = [augment(image, np.random.default_rng(seed)) for seed in range(30)]
    again = [augment(image, np.random.default_rng(seed)) for seed in range(30)]
    assert all(np.array_equal(a, b) for a, b in zip(views, again, strict=True))
    assert len({view.tobytes() for view in views}) > 25
    assert all(view.shape == (64, 64, 3) and view.dtype == np.uint8 for view in views)


def test_augmentation_leaves_its_input_alone() -> None:
    image = photo(64, 64)
    before = image.copy()
    augment = TrainAugmentation(64, LoaderConfig(min_scale=1.0))
    for seed in range(60):
        augment(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before)


def test_without_options_nothing_changes() -> None:
    image = photo(64, 64)
    augment = TrainAugmentation(64, LoaderConfig(min_scale=1.0, flip=False, randaugment=False))
    np.testing.assert_array_equal(augment(image, np.random.default_rng(0)), image)


def test_flip_mirrors_half() -> None:
    image = photo(32, 32)
    augment = TrainAugmentation(32, LoaderConfig(min_scale=1.0, randaugment=False))
    views = [augment(image, np.random.default_rng(seed)) for seed in range(200)]
    mirrored = sum(np.array_equal(view, image[:, ::-1]) for view in views)
    assert mirrored + sum(np.array_equal(view, image) for view in views) == 200
    assert 70 < mirrored < 130


def test_crops_keep_to_the_area_and_shape_asked_for() -> None:
    augment = TrainAugmentation(64, LoaderConfig(min_scale=0.5))
    rng = np.random.default_rng(0)
    for _ in range(300):
        top, left, height, width = augment._crop(90, 120, rng)
        assert 0 <= top <= 90 - height
        assert 0 <= left <= 120 - width
        assert 0.48 <= height * width / (90 * 120) <= 1
        assert 0.72 <= width / height <= 1.38
    assert augment._crop(1, 1000, np.random.default_rng(0))[2] == 1  # no such crop exists: the centre


@pytest.mark.parametrize("quirks", [True, False])
def test_randaugment_operations(quirks: bool) -> None:
    image = photo(64, 64)
    augment = TrainAugmentation(64, LoaderConfig(randaugment_as_released=quirks))
    same = [name for name in ("brightness", "sharpness") if np.array_equal(augment._apply(name, image, 1.0), image)]
    assert same == (["brightness", "sharpness"] if quirks else [])
    moved = augment._apply("translate_x", image, 1.0)
    steps = 5 if quirks else 1
    inner = slice(2, 64 - steps - 2)
    assert np.abs(moved[:, inner].astype(int) - np.roll(image, -steps, axis=1)[:, inner]).mean() < (1 if quirks else 12)
    assert (augment._apply("rotate", image, 1.0)[0, 0] == 128).all()
    assert (augment._apply("shear_x", image, 1.0)[-1, 0] == 128).all()
    assert (augment._apply("shear_y", image, -1.0)[-1, -1] == 128).all()


def test_contrast_operations_are_pillows() -> None:
    from PIL import ImageOps

    image = (photo(50, 60) // 2 + 30).astype(np.uint8)
    augment = TrainAugmentation(64, LoaderConfig())
    theirs = Image.fromarray(image)
    equal = augment._apply("equalize", image, 1.0)
    np.testing.assert_array_equal(equal, np.asarray(ImageOps.equalize(theirs)))
    stretched = augment._apply("autocontrast", image, 1.0).astype(int)
    assert np.abs(stretched - np.asarray(ImageOps.autocontrast(theirs))).max() <= 1


def test_a_flat_picture_survives_every_operation() -> None:
    flat = np.full((8, 8, 3), 77, np.uint8)
    for name in ("autocontrast", "equalize"):
        np.testing.assert_array_equal(TrainAugmentation(8, LoaderConfig())._apply(name, flat, 1.0), flat)


def test_scale_must_be_a_share() -> None:
    with pytest.raises(ValidationError, match="min_scale"):
        LoaderConfig(min_scale=0.0)
