"""The page: self-contained, escaped, complete, and honest in its verdict."""

import json
import re
from html.parser import HTMLParser

import pytest

from components.common.contracts import PurityPoint
from components.pages.charts import Series, line_chart, nice_ticks
from components.pages.report import (
    CapfiltReport,
    Example,
    ExampleText,
    ReportData,
    RoundReport,
    render_report,
    write_report,
)
from components.pages.report.bars import bar_chart
from components.pages.report.cards import pinned_cards
from components.pages.report.first import contents
from components.pages.report.sieve import sieve
from components.pages.table import markdown_table
from components.pages.verdict import certainty, spoken_of, verdict, word
from tests.helpers.ended import round_result, uncertain
from tests.unit.pages.demo import alone, demo

RECALL, CIDER = "eval/retrieval/mean_recall", "eval/caption/cider"
VOID = {"meta", "img", "br", "line", "polyline", "input", "hr", "link"}


class Checker(HTMLParser):
    """Collects tags and text; every opened tag must be closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], []
        self.links, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "data", "action")]
        self.links += [value for name, value in attrs if tag == "a" and name == "href"]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def rounds(*pairs):
    return tuple(RoundReport(round=k, metrics={RECALL: r, CIDER: c}) for k, (r, c) in enumerate(pairs))


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_page_is_whole_and_needs_no_network(count):
    page = render_report(demo(count))
    checker = parse(page)
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert all(source.startswith(("data:image/", "#", "http://127.0.0.1:5000/")) for source in checker.sources)
    assert set(checker.links) <= {f"#{name}" for name in checker.ids} | {"http://127.0.0.1:5000/#/experiments/1/runs"}
    assert not re.search(r"url\(|@import", page)
    assert "nan" not in " ".join(checker.text).split()


def test_page_names_what_matters(tmp_path):
    data = demo(2)
    write_report(data, tmp_path / "deep" / "report.html")
    page = (tmp_path / "deep" / "report.html").read_text()
    text = " ".join("".join(parse(page).text).split())
    for words in (
        "Round 1 is better than round 0: retrieval recall rises from 54.2 % to 60.2 % (+2.0 to +10.0 pts: clear)",
        "Intervals: 95 %, by the choice of test images alone; another seed of the training varies besides.",
        "+6.0 pts against round 0, clear",
        "Base model, as pre-training leaves it",
        "promoted to champion",
        "BLEU-4",
        "Web texts rejected",
        "52.0 %",
        "half-right",
        "below threshold",
        "not an image",
        "round-1/pretrain",
        "3fa9c1d2e8b74a60",
        "policy: keep_both",
        "✓ kept",
        "✗ dropped",
        "Kept 1,202 of 2,500 web texts (48.1 %) and 1,649 of 2,489 written captions (66.3 %): 2,851 pairs over 2,011",
        "Next: Rewrite and clean your own shards with the winner",
        "with 2,000 human pairs that makes 4,851 to train on",
        "From round 0 to round 1 CIDEr rises on 180 of 300 images and falls on 101.",
        "capfilt dataset explain /data/store/datasets/web-capfilt-1/9b1 000000003",
        "capfilt dataset explain /data/store/datasets/human-test/a1 test_000001",
        "Wrong, and kept: 331 of 2,851 kept texts",
        "Right, and refused: 204 texts",
        "a red disc 40 times 12 kept",
        "sample-cdcdcdcd · the run before",
        "2 settings differ",
        "0.7 there, 0.5 here",
        "Captions that went wrong",
    ):
        assert words in text, words
    assert page.count("<svg") == 4 + 2 + 2 + 6 + 1 + 4
    assert '<li class="chip yes">clear</li>' in page
    assert '<span class="ci">53.2 – 55.2 %</span>' in page


def test_each_rounds_filter_is_drawn_with_its_threshold():
    page = render_report(demo(2))
    charts = re.findall(r'aria-label="Purity and yield of the filter of round (\d) by threshold: ([^"]+)"', page)
    assert [number for number, _ in charts] == ["0", "1"]
    assert [re.sub(r"[\d.]+ %", "…", text) for _, text in charts][0] == "purity … at 0.5; yield … at 0.5"
    assert page.count('class="upright"') == 4 + 2
    text = " ".join("".join(parse(page).text).split())
    assert "Threshold 0.5: purity " in text
    assert "chosen for a purity of 95.0 %" in text
    assert "Drift: at threshold 0.5" in text
    said = re.findall(
        r'aria-label="Reliability of the filter of round (\d): share of right texts by what it says', page
    )
    assert said == ["0", "1"]
    assert "Off by " in text
    assert text.index("How far the filter can be trusted") < text.index("What CapFilt did")


def test_a_target_out_of_reach_is_told():
    data = demo(1)
    (one,) = data.rounds
    missed = one.calibration.model_copy(update={"target": 0.999, "reached": False})
    page = render_report(data.model_copy(update={"rounds": (one.model_copy(update={"calibration": missed}),)}))
    assert "none reaches the 99.9&nbsp;% asked for" in page


@pytest.mark.parametrize(
    ("score", "words"), [("itm", "Threshold 0.5: purity"), ("both", "Threshold 0.5 of ITM and ITC, weighed: purity")]
)
def test_what_a_threshold_is_of_is_told(score, words):
    data = demo(1)
    (one,) = data.rounds
    weighed = one.calibration.model_copy(update={"score": score})
    assert words in render_report(
        data.model_copy(update={"rounds": (one.model_copy(update={"calibration": weighed}),)})
    )


@pytest.mark.parametrize("worse", [False, True])
def test_only_a_drift_for_the_worse_is_coloured(worse):
    data = demo(1)
    (one,) = data.rounds
    drifted = one.model_copy(update={"drift": "it moved", "drift_worse": worse})
    page = render_report(data.model_copy(update={"rounds": (drifted,)}))
    assert f'<p class="note-box{" worse" if worse else ""}">Drift: it moved.</p>' in page


def test_purity_is_not_drawn_where_nothing_passes():
    nothing = PurityPoint(threshold=1.0, purity=0.0, yield_share=0.0)
    some = [PurityPoint(threshold=at, purity=0.5 + at / 2, yield_share=1 - at) for at in (0.0, 0.5)]
    data = demo(1)
    (one,) = data.rounds
    calibration = one.calibration.model_copy(update={"curve": (*some, nothing), "chosen": some[1]})
    page = render_report(data.model_copy(update={"rounds": (one.model_copy(update={"calibration": calibration}),)}))
    purity, yields = re.findall(r'series-\d" points="([^"]+)"', page.partition("trusted")[2])[:2]
    assert len(purity.split()) == 2
    assert len(yields.split()) == 3
    assert purity.split()[1].split(",")[0] == yields.split()[1].split(",")[0]


def test_text_from_outside_is_escaped():
    evil = '<script>alert("x")</script>'
    example = Example(
        key=evil,
        image="data:image/jpeg;base64,AA==",
        kind=evil,
        texts=(ExampleText(source="web", text=evil, itm_probability=None, kept=False, reason=evil),),
    )
    data = ReportData(
        name=evil,
        rounds=(RoundReport(round=0, metrics={}, curves={f"{evil}<b>/loss": ((0, 1), (1, 2))}),),
        capfilt=(CapfiltReport(made_by=0, metrics={}, failed={evil: 1}, dropped={evil: 2}, examples=(example,)),),
        config={evil: evil},
        facts={evil: evil},
        reasons=(evil,),
    )
    assert "script" not in parse(render_report(data)).tags


def test_the_least_data_still_makes_a_page():
    page = render_report(ReportData(name="x", rounds=(RoundReport(round=0, metrics={}),)))
    assert "nothing was measured" in page


def test_what_flips_between_passes_is_marked():
    words = [
        re.sub(r"<[^>]+>", "", found) for found in re.findall(r'<span class="flip[^/]+/span>', render_report(demo(3)))
    ]
    assert {"kept → dropped", "dropped → kept", "right → wrong", "text found first"} <= set(words)
    assert "→" not in "".join(re.findall(r'<span class="flip[^/]+/span>', render_report(demo(1))))


def test_every_text_is_followed_through_the_passes():
    image = demo(4).capfilt[0].examples[0]
    cards = {card.key: card for card in pinned_cards(demo(4).capfilt)}
    steps = cards[image.key].steps
    assert [step.where for step in steps] == [f"by round {k}" for k in range(3)] * 2
    assert [step.text.source for step in steps] == ["web"] * 3 + ["synthetic"] * 3
    assert [step.same for step in steps] == [False, True, True] * 2


def test_capfilt_alone_has_the_same_page():
    page = render_report(alone())
    text = " ".join("".join(parse(page.partition("</head>")[2].removesuffix("</html>")).text).split())
    assert text.count("Kept 1,202 of 2,500 web texts") == 1
    assert "From the web to what is kept" in text
    assert not re.search(r"\bround", text)
    assert [words for _, words in contents(alone())] == [
        "Web data", "Texts", "Web images", "Mistakes", "Left out", "Lineage",
    ]  # fmt: skip


def test_a_stage_found_done_keeps_its_time():
    text = " ".join("".join(parse(render_report(demo(2))).text).split())
    assert "round-0/pretrain 2 min 21 s found done" in text
    assert "1 of them was found done: what is shown is the time that took when it was made." in text


def test_the_drawing_is_as_wide_as_the_numbers_are():
    one = demo(2).capfilt[0]
    drawing = str(sieve(one, 2000).drawing)
    widths = [float(found) for found in re.findall(r'<rect[^>]* width="([\d.]+)"', drawing)]
    counts = [2500, 2489, 1202, 1649, 1298, 840, 1202, 1649, 2000]
    assert [round(width / widths[0] * 2500 / 20) for width in widths] == [round(count / 20) for count in counts]
    assert all(0 <= float(x) <= 360.1 for x in re.findall(r"[ML ]([\d.]+) ", drawing))
    nothing = one.model_copy(update={"texts": ()})
    assert sieve(nothing, 2000) is None


def test_bars_stay_in_their_frame():
    chart = str(bar_chart("t", [(0, 0), (1, 100_000), (3, 0)], ((0.0, "0"), (1.0, "1")), mark=(0.5, "here")))
    bars = [
        [float(value) for value in found]
        for found in re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', chart)
    ]
    assert len(bars) == 3 and all(y >= 0 and y + height <= 130 for y, height in bars)
    assert bar_chart("t", [(0, 0)], ()) == ""


def test_values_that_are_not_finite_do_not_break_the_page():
    data = ReportData(
        name="x",
        rounds=(
            RoundReport(
                round=0, metrics={RECALL: float("nan"), CIDER: 1.0}, curves={"pretrain/loss": ((0, float("nan")),)}
            ),
            RoundReport(round=1, metrics={RECALL: 0.5, CIDER: float("inf")}),
        ),
    )
    parse(render_report(data))


UP, DOWN, NOISE = (0.1, 0.05), (-0.1, 0.05), (0.01, 0.05)


def weighed_rounds(*changes):
    """Round 0, and one per pair of changes of recall and CIDEr, each with half the width of its interval."""
    later = [
        {RECALL: 0.5 + (recall[0] if recall else 0), CIDER: 1.0 + (cider[0] if cider else 0)}
        for recall, cider in changes
    ]
    known = [
        uncertain(values, {name: one for name, one in zip((RECALL, CIDER), pair, strict=True) if one})
        for values, pair in zip(later, changes, strict=True)
    ]
    first = RoundReport(round=0, metrics={RECALL: 0.5, CIDER: 1.0})
    return (
        first,
        *(RoundReport(round=k, metrics=m, uncertainty=u) for k, (m, u) in enumerate(zip(later, known, strict=True), 1)),
    )


@pytest.mark.parametrize(
    ("recall", "cider", "said", "words"),
    [
        (
            UP,
            UP,
            "clear",
            "Round 1 is better than round 0: retrieval recall rises from 50.0 % to 60.0 % (+5.0",
        ),
        (UP, NOISE, "clear", "Round 1 is better than round 0"),
        (NOISE, UP, "clear", "Round 1 is better than round 0"),
        (DOWN, NOISE, "clear", "Round 1 is worse than round 0"),
        (UP, DOWN, "mixed", "Round 1 is a mixed result against round 0"),
        (NOISE, NOISE, "within noise", "Round 1 is within noise of round 0: retrieval recall rises"),
        (None, NOISE, "within noise", "Round 1 is within noise of round 0"),
        (None, None, None, "Round 1 stands, without intervals, against round 0: retrieval recall stays, going"),
    ],
)
def test_the_verdict_asks_whether_it_is_more_than_noise(recall, cider, said, words):
    found = weighed_rounds((recall, cider))
    assert word(found[1]) == said
    assert verdict(found).startswith(words)


def test_a_verdict_without_figures():
    assert verdict(rounds((0.5, 1.0))) == "Round 0: retrieval recall 50.0 %, CIDEr 1.000."
    nothing = rounds((0.5, 1.0), (float("nan"), float("nan")))
    assert verdict(nothing).startswith("2 rounds ended, and nothing was measured")
    assert certainty(nothing) == ""


def test_the_verdict_speaks_of_the_winner_or_else_of_the_last():
    three = weighed_rounds((UP, UP), (NOISE, NOISE))
    assert [spoken_of(three, champion).round for champion in (1, 2, 0, None)] == [1, 2, 2, 2]


def test_a_change_within_noise_has_no_colour():
    page = render_report(ReportData(name="x", rounds=weighed_rounds((NOISE, UP))))
    assert 'class="flat">+1.0 pts<span class="ci">-4.0 to +6.0 pts: within noise</span></td>' in page
    assert 'class="up">+0.100<span class="ci">+0.050 to +0.150: clear</span></td>' in page


def test_a_drift_for_the_worse_stands_beside_the_verdict():
    first, second = weighed_rounds((UP, UP))
    drifted = second.model_copy(update={"drift": "its purity fell", "drift_worse": True})
    page = render_report(ReportData(name="x", rounds=(first, drifted)))
    assert "<b>Warning, round 1:</b> its purity fell." in page.partition("<main>")[0]
    harmless = second.model_copy(update={"drift": "its purity fell"})
    assert "Warning" not in render_report(ReportData(name="x", rounds=(first, harmless)))


def test_only_the_telling_curves_are_drawn():
    names = ["loss", "loss_itc", "loss_lm", "nll_lm", "lr", "queue_fill"]
    curves = {f"base/{name}": ((0.0, 2.0), (1.0, 1.0)) for name in names} | {"captioner/loss": ((0.0, 2.0), (1.0, 1.0))}
    page = render_report(ReportData(name="x", rounds=(RoundReport(round=0, metrics={}, curves=curves),)))
    assert re.findall(r'aria-label="(\w+, \w+):', page) == ["base, loss_itc", "base, nll_lm", "captioner, loss"]


def test_data_travels_as_json():
    data = demo(2)
    assert ReportData.model_validate(json.loads(data.model_dump_json())) == data


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.541, 0.602), (-3, 12), (1e-6, 2e-6), (0, 12345), (0.30001, 0.30002)]
)
def test_ticks_enclose_and_are_few(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 2 <= len(ticks) <= 8


def test_charts_stay_in_their_frame_and_small():
    long = Series(label="loss", points=tuple((float(x), x % 7) for x in range(100_000)))
    chart = str(line_chart("t", [long, Series(label="flat", points=((5.0, 3.0),))], x_label="step"))
    assert len(chart) < 20_000
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", re.search(r'points="([^"]+)"', chart)[1])
    assert all(0 <= float(x) <= 380 and 0 <= float(y) <= 210 for x, y in points)
    assert line_chart("t", [Series(label="none", points=())], x_label="step") == ""


def test_terminal_and_page_compare_with_the_same_round():
    recalls = (0.50, 0.60, 0.58)
    page = render_report(ReportData(name="x", rounds=rounds(*((recall, 1.0) for recall in recalls))))
    assert "+8.0 pts" in page
    lines = markdown_table([round_result(k, {RECALL: recall}) for k, recall in enumerate(recalls)])
    assert "0.5800 (+0.0800)" in lines


def test_a_text_without_scores_begins_with_its_reason() -> None:
    dropped = ExampleText(source="web", text="one", kept=False, reason="filtered_words")
    cosine = ExampleText(source="synthetic", text="two", kept=False, reason="below_band", itc_similarity=0.25)
    shown = (Example(key="k", image="data:image/png;base64,", texts=(dropped, cosine)),)
    page = render_report(ReportData(name="x", capfilt=(CapfiltReport(made_by=None, metrics={}, examples=shown),)))
    feet = re.findall(r'<div class="foot">(.*?)</div>', page)
    assert [foot.strip() for foot in feet[:2]] == ["filtered words", "cosine 0.25 · below band"]
