from components.common.contracts import DatasetRef, ModelRef, RoundResult
from flows._table import markdown_table


def _round(number: int, **metrics: float) -> RoundResult:
    web = DatasetRef(name="web", uri="/w", digest="d", images=1, pairs=1)
    models = {role: ModelRef(role=role, uri="/m", digest="d") for role in ("base", "captioner", "filter")}  # type: ignore[arg-type]
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return RoundResult(round=number, web=web, metrics=named, **models)


def test_rounds_side_by_side_with_changes() -> None:
    table = markdown_table(
        [
            _round(0, eval__retrieval__mean_recall=0.5, eval__caption__cider=1.25),
            _round(1, eval__retrieval__mean_recall=0.625, eval__caption__cider=1.0, capfilt__kept_pairs=2400.0),
            _round(2, capfilt__kept_pairs=80.0),
        ]
    )
    assert table.splitlines() == [
        "| | round 0 | round 1 | round 2 |",
        "|---|---:|---:|---:|",
        "| retrieval, mean recall | 0.5000 | 0.6250 (+0.1250) | – |",
        "| captions, CIDEr | 1.2500 | 1.0000 (-0.2500) | – |",
        "| pairs kept by CapFilt | – | 2,400 | 80 (-2,320) |",
    ]
