"""How well a filter separates the real web texts: ROC-AUC of P(match) on `web_truth.parquet`, `match` against the rest.

    python -m tests.benchmarks.score_web_truth DATASET_URI ../shared/data/web_truth.parquet

DATASET_URI is a dataset written by CapFilt. For scoring only: nothing that trains or filters may read the truth.
"""

import sys
from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq

from components.common.storage import open_store
from components.data.manifest import load_manifest


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half. scores [N], positive bool [N]."""
    order = np.argsort(scores, kind="stable")
    _, first, counts = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    wins = ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / (positive.sum() * (~positive).sum()))


def web_scores(uri: str) -> dict[str, float]:
    """P(match) of the web text of every key in a CapFilt dataset."""
    store = open_store(uri)
    scores: dict[str, float] = {}
    for shard in load_manifest(uri).shards:
        with store.open(shard.parquet.key) as file:
            rows: Iterable[dict[str, object]] = pq.read_table(file).to_pylist()
        scores |= {
            str(row["key"]): float(str(row["itm_probability"]))
            for row in rows
            if row["source"] == "web" and row["itm_probability"] is not None
        }
    return scores


def main(dataset_uri: str, truth_path: str) -> None:
    """Print the AUC over all texts, and the mean score of each kind."""
    scores = web_scores(dataset_uri)
    truth = [row for row in pq.read_table(truth_path).to_pylist() if row["key"] in scores and row["kind"] != "cc12m"]
    values = np.array([scores[row["key"]] for row in truth])
    kinds = np.array([row["kind"] for row in truth])
    print(f"texts scored {len(values)}   ROC-AUC match vs rest {roc_auc(values, kinds == 'match'):.4f}")
    for kind in sorted(set(kinds) - {"match"}):
        chosen = np.isin(kinds, ["match", kind])
        auc = roc_auc(values[chosen], kinds[chosen] == "match")
        print(f"  match vs {kind:12s} AUC {auc:.4f}   mean P(match) {values[kinds == kind].mean():.3f}")
    print(f"  match                     mean P(match) {values[kinds == 'match'].mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
