"""Charts of the page: headline figures over the rounds, and training curves."""

from collections.abc import Sequence

from markupsafe import Markup

from components.common.metrics import BASE_RECALL, BLEU_4, CIDER, RECALL, VQA, metric
from components.pages.charts import Series, line_chart
from components.pages.report.wording import title
from components.pages.report_data import RoundReport

CHARTS = (RECALL, CIDER, BLEU_4, BASE_RECALL, VQA)
CURVES = ("loss_itc", "loss_itm", "nll_lm", "loss_lm", "nll_vqa", "loss_vqa", "loss")
STAGES = {
    "pretrain": "Pre-training",
    "base": "Pre-training",
    "captioner": "Captioner",
    "filter": "Filter",
    "retrieval": "Retrieval model",
    "vqa": "VQA",
}


def progress_charts(rounds: Sequence[RoundReport]) -> list[tuple[str, Markup]]:
    """One chart per headline metric over the rounds; none for a single round."""
    if len(rounds) < 2:
        return []
    charts = []
    for entry in map(metric, CHARTS):
        words = title(entry)
        points = tuple((float(one.round), one.metrics[entry.name]) for one in rounds if entry.name in one.metrics)
        line, percent = Series(label=words, points=points, colour=1), entry.unit == "share"
        chart = line_chart(words, [line], x_label="round", percent=percent, rounds=True)
        if chart:
            charts.append((words, chart))
    return charts


def curve_groups(rounds: Sequence[RoundReport]) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """Training curves: per stage one chart per loss, with a line per round."""
    groups = []
    names = _losses_of(list(dict.fromkeys(name for one in rounds for name in one.curves)))
    for stage in sorted(
        {name.partition("/")[0] for name in names}, key=lambda stage: ([*STAGES, stage].index(stage), stage)
    ):
        charts = []
        for name in (name for name in names if name.startswith(f"{stage}/")):
            loss = name.partition("/")[2]
            lines = [
                Series(label=f"round {one.round}", points=one.curves[name], colour=index)
                for index, one in enumerate(rounds)
                if name in one.curves
            ]
            if chart := line_chart(f"{stage}, {loss}", lines, x_label="step"):
                charts.append((metric(f"train/{loss}").label, chart))
        if charts:
            groups.append((STAGES.get(stage, stage), charts))
    return groups


def _losses_of(names: Sequence[str]) -> list[str]:
    """The curves worth a chart: the parts of the loss rather than their sum, the plain LM loss rather than the smoothed
    one (its floor is not 0), no learning rates and the like."""
    order = {loss: place for place, loss in enumerate(CURVES)}
    chosen = [name for name in names if name.partition("/")[2] in order]
    covered = {name.replace("/nll_", "/loss_") for name in chosen if "/nll_" in name}
    covered |= {name.partition("/")[0] + "/loss" for name in chosen if not name.endswith("/loss")}
    return sorted((name for name in chosen if name not in covered), key=lambda name: order[name.partition("/")[2]])
