"""Labels of pictures of the world, as people label ImageNet: what lies in each ninth, and the ground; no words.

For encoders of images alone. Nothing that learns from texts reads them, as nothing reads the truth of the web texts;
and the labelled pictures are named apart, so that none of them is a human or a web picture of the same world.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.data.decoding import decode_image
from components.data.sampleworld.config import SampleWorldConfig
from components.data.sampleworld.scene import (
    COLOURS,
    GROUND_COLOURS,
    GROUND_PATTERNS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)
from components.data.sampleworld.world import picture_of

Labels = NDArray[np.int64]

OF_A_THING: dict[str, tuple[str, ...]] = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
"""What is said of a thing, and the values in the order of their numbers."""
OF_THE_GROUND: dict[str, tuple[str, ...]] = {"ground": GROUND_COLOURS, "pattern": GROUND_PATTERNS}
"""The same of the ground."""
DEPTH = 2
"""Things that can lie in one ninth: the second lies inside the first."""
NOTHING = -1
"""The number where there is no thing."""
PICTURES = "labelled"
"""What the labelled pictures of a world are named; `train`, `val`, `test` and `web` are those with texts."""


class SceneLabels(NamedTuple):
    """Numbers for one scene, or stacked for several.

    Attributes:
        things: int64 `[9, 2, 4]` by place (as in PLACES), depth and attribute (as in OF_A_THING); NOTHING where no
            thing is.
        ground: int64 `[2]`, as in OF_THE_GROUND.
    """

    things: Labels
    ground: Labels


class LabelledPictures(NamedTuple):
    """Pictures uint8 `[N, S, S, 3]` and their labels `[N, …]`."""

    images: NDArray[np.uint8]
    labels: SceneLabels


def label_scene(scene: Scene) -> SceneLabels:
    """What a scene shows, in numbers."""
    things = np.full((len(PLACES), DEPTH, len(OF_A_THING)), NOTHING, np.int64)
    for thing in scene.things:
        ninth = things[PLACES.index(thing.place)]
        ninth[int(ninth[0, 0] != NOTHING)] = _numbers(thing)
    ground = [values.index(getattr(scene, name)) for name, values in OF_THE_GROUND.items()]
    return SceneLabels(things, np.array(ground, np.int64))


def _numbers(thing: Thing) -> list[int]:
    return [values.index(getattr(thing, name)) for name, values in OF_A_THING.items()]


def labelled_pictures(config: SampleWorldConfig, first: int, count: int) -> LabelledPictures:
    """Labelled pictures number `first` and on; each is a function of the world's seed, its sizes and its number."""
    images, things, ground = [], [], []
    for number in range(first, first + count):
        scene, jpeg, _ = picture_of(config, PICTURES, number)
        labels = label_scene(scene)
        images.append(decode_image(jpeg))
        things.append(labels.things)
        ground.append(labels.ground)
    return LabelledPictures(np.stack(images), SceneLabels(np.stack(things), np.stack(ground)))
