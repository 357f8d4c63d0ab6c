"""BLIP's CapFilt as a system. What can be called from Python; nothing heavy is loaded before it is called.

import capfilt

result = capfilt.regenerate(web="shards", captioner="captioner", filter="filter", out="clean", threshold=0.7)
for sample in capfilt.open_dataset(result.dataset.uri, shuffle=1000):
    ...
"""

from capfilt.api import ask, caption, index, open_dataset, recut, regenerate, score, search
from capfilt.standings import leaderboard

__all__ = ["ask", "caption", "index", "leaderboard", "open_dataset", "recut", "regenerate", "score", "search"]
