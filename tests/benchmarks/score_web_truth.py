"""How well a filter separates the real web texts: ROC-AUC of P(match) on `web_truth.parquet`, `match` against the rest.

    python -m tests.benchmarks.score_web_truth DATASET_URI ../shared/data/web_truth.parquet

DATASET_URI is a dataset written by CapFilt. For scoring only: nothing that trains or filters may read the truth.
"""

import sys

import numpy as np
import pyarrow.parquet as pq

from components.data.texts import dataset_candidates
from components.evaluation.dataset import roc_auc


def web_scores(uri: str) -> dict[str, float]:
    """P(match) of the web text of every key in a CapFilt dataset."""
    return {
        one.key: one.itm_probability
        for one in dataset_candidates(uri)
        if one.source == "web" and one.itm_probability is not None
    }


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
