"""The sample world: generated pictures with human captions and web texts of known kinds, as files of the usual layouts.

What it needs no download for: the first run and the tests. Its truth lies apart, for scoring only.
"""

from components.data.sampleworld.config import NoiseProfile, SampleWorldConfig
from components.data.sampleworld.judge import Judgement, judge_caption
from components.data.sampleworld.scene import Scene
from components.data.sampleworld.world import SampleWorldPaths, generate_sample_world

__all__ = [
    "NoiseProfile",
    "SampleWorldConfig",
    "SampleWorldPaths",
    "Scene",
    "Judgement",
    "generate_sample_world",
    "judge_caption",
]
