"""BLIP's CapFilt as a system. What can be called from Python; nothing heavy is loaded before it is called.

import capfilt

result = capfilt.regenerate(web="shards", captioner="captioner", filter="filter", out="clean", threshold=0.7)
for sample in capfilt.open_dataset(result.dataset.uri, shuffle=1000):
    ...
"""

from capfilt.api import ask, caption, index, open_dataset, recut, regenerate, score, search
from capfilt.piloting import pilot
from capfilt.sharing import add_scores, export, select
from capfilt.standings import leaderboard

__all__ = [
    "add_scores", "ask", "caption", "export", "index", "leaderboard", "open_dataset", "pilot", "recut", "regenerate",
    "score", "search", "select",
]  # fmt: skip
