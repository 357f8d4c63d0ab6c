"""The quiet screen: what it shows, what it keeps off the terminal, and that it leaves nothing behind."""

import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from components.common import progress, screen
from components.common.progress import Progress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """A terminal of 80 columns in stderr's place, and the log on it."""
    seen = io.StringIO()
    console = Console(file=seen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress, "_consoles", [console])
    handler = logging.StreamHandler(seen)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    yield seen
    root.handlers[:] = before
    root.setLevel(level)


def test_news_stay_on_the_screen_and_warnings_above_it(terminal: io.StringIO) -> None:
    stages, other = logging.getLogger("flows.stages"), logging.getLogger("components.training.gathering")
    with screen.quiet_screen("starting", shown=True):
        stages.info("round-0/pretrain …")
        other.info("run there: capfilt join s3://bucket")
        stages.warning("its record cannot be read")
        screen.line("round-0/pretrain", "1:27 min")
    stages.info("seen again")
    text = terminal.getvalue()
    assert "round-0/pretrain …" not in text
    for words in ("run there: capfilt join s3://bucket", "its record cannot be read", "1:27 min", "seen again"):
        assert words in text


def test_headline_bar_and_details_are_a_line_each(terminal: io.StringIO) -> None:
    with screen.quiet_screen("starting", shown=True), screen.following(lambda: "sample · " + "a long stage " * 9):
        work = Progress(12_800, "pairs", "round-0/pretrain")
        work.advance(6_400, step="100/200", loss=8.156, loss_itc=4.65, loss_itm=0.5407, loss_lm=2.966, kept="9 % " * 9)
        console = Console(file=io.StringIO(), width=80)
        lines = console.render_lines(progress.drawing("sample · " + "a long stage " * 9, work))
        work.close()
        assert len(console.render_lines(progress.drawing("sample", None))) == 3
    assert len(lines) == 3
    assert "6,400/12,800 (50%) pairs" in "".join(part.text for part in lines[1])
    assert "loss 8.156" in "".join(part.text for part in lines[2])


def test_last_words_outlast_the_screen(terminal: io.StringIO) -> None:
    assert not screen.last_words("stopping")
    with pytest.raises(KeyboardInterrupt), screen.quiet_screen("starting", shown=True):
        assert screen.last_words("capfilt: stopping")
        raise KeyboardInterrupt
    assert terminal.getvalue().rstrip().endswith("capfilt: stopping")


def test_without_a_terminal_there_is_no_screen(terminal: io.StringIO) -> None:
    with screen.quiet_screen("starting", shown=False):
        screen.line("round-0/pretrain", "1:27 min")
        logging.getLogger("flows.stages").info("round-0/pretrain …")
    assert terminal.getvalue() == "round-0/pretrain …\n"
