"""What components say of a run, whoever listens: here nobody does."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import PreemptedError

Status = Literal["FINISHED", "FAILED", "KILLED"]
FAREWELL_SECONDS = 20.0  # what a hung server is given at the end


class RunsView(NamedTuple):
    """What MLflow's list of an experiment's runs shows when it is opened by `runs_page`."""

    key: str
    """what links call it"""
    title: str
    """what MLflow's menu of views calls it"""
    filter: str
    """which runs, in MLflow's search syntax"""
    columns: Mapping[str, int]
    """``metrics.`name` ``, ``params.`name` `` or ``tags.`name` `` to its width in pixels, in order"""
    charts: str
    """which metrics have charts: a regular expression"""


class Score(NamedTuple):
    """A figure, the model that it is of, and the dataset that it was measured on; None: of none."""

    value: float
    model: ModelRef | None = None
    dataset: DatasetRef | None = None


class Settings(NamedTuple):
    """A bootstrap's settings, flat, as text."""

    deciding: Mapping[str, str]
    """all that decide the outcome"""
    chosen: Mapping[str, str]
    """those that are not the default, whether they decide or not"""
    always: Sequence[str]
    """names of those that are told even where they are the default, the most important first"""


class Tracker:
    """One run of an experiment, as components see it. This one tracks nothing: what else there is builds on it."""

    uri: str | None = None
    run_id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add points to curves."""

    def log_scores(self, scores: Mapping[str, Score]) -> None:
        """Add final figures, each tied to its model, if that was registered, and to its dataset; known ones stay."""

    def known_point(self, name: str, step: int) -> float | None:
        """The newest value of a curve at a step, None if there is none: what is logged again can be left out."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings, nested ones flattened with dots, long values shortened; those already there stay."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

    def tell_apart(self, label: str, settings: Settings) -> None:
        """Record the settings of a bootstrap, and name its run after those that differ from the bootstrap before.

        Args:
            label: what the name starts with.
        """

    def known_tag(self, name: str) -> str:
        """The value of a tag; empty if there is none, or nobody can tell."""
        return ""

    def varied_settings(self, settings: Settings) -> list[str]:
        """Names of deciding settings in which bootstraps of the experiment differ; none where nobody can tell."""
        return []

    def describe(self, text: str) -> None:
        """Say in markdown what this run is: MLflow shows it at the top of its page."""

    def describe_experiment(self, text: str, views: Sequence[RunsView]) -> None:
        """Say in markdown what the experiment is, and keep the views of its runs that links open."""

    def log_dataset(self, ref: DatasetRef, context: str, facts: Mapping[str, str] | None = None) -> None:
        """Record a dataset version as an input of this run: its manifest's URI, digest, counts, and further facts."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file."""

    def log_text(self, text: str, name: str) -> None:
        """Attach text as a file called `name`."""

    def log_figure_bytes(self, data: bytes, name: str) -> None:
        """Attach an image's bytes as a file called `name` (folders with `/`)."""

    def register_model(
        self,
        name: str,
        ref: ModelRef,
        tags: Mapping[str, str],
        *,
        about: str = "",
        card: str = "",
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Register a model folder by its URI, once per digest, and point aliases at it.

        Args:
            tags: of the model and of its version; `bootstrap` adds to those that made the same model.
            about: what all models of this name are, in markdown.
            card: what this one is, in markdown: its description and its README.
            aliases: what shall point at it, and why; a move is kept with its reason at model, version and run.
        """

    def find_champions(self, names: Sequence[str]) -> list[ModelRef] | None:
        """What alias `champion` of registered models points at, where it does; None: nobody can tell."""
        return []

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> "Tracker":
        """A nested run; the same name gives the same run again, so a resumed stage goes on with its curves."""
        return self

    def beside(self, name: str, tags: Mapping[str, str]) -> "Tracker":
        """A run of its own in the same experiment; the same tags give the same run again."""
        return self

    def has_child(self, name: str) -> bool:
        """Whether a nested run of this name was ever started, or nobody can tell: then there is none to make up for."""
        return True

    def page(self, tab: str = "") -> str:
        """Path of this run's page on MLflow's server; empty without tracking. `tab`: `artifacts/FILE` …"""
        return ""

    def runs_page(self, view: str = "rounds", *, charts: bool = False) -> str:
        """Path of the experiment's list of runs on MLflow's server, in a view; empty without tracking."""
        return ""

    def comparison_page(self, run_ids: Sequence[str]) -> str:
        """Path of the page on MLflow's server that shows runs side by side; empty without tracking."""
        return ""

    def end(self, status: Status = "FINISHED") -> None:
        """Close the run when all is sent; nobody waits for that."""

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """End as the work within ends: finished, failed, or killed where it was cancelled or interrupted."""
        try:
            yield
        except PreemptedError:
            self.end("KILLED")
            raise
        except Exception:
            self.end("FAILED")
            raise
        except BaseException:
            self.end("KILLED")
            raise
        self.end()

    def farewell(self, seconds: float = FAREWELL_SECONDS) -> None:
        """Wait until all is sent, and no longer than so many seconds for any one thing: for the end of a process."""

    def environment(self) -> dict[str, str]:
        """Variables with which a child process finds this run (`tracker_from_environment`)."""
        return {}


UNTRACKED = Tracker()
"""For callers that name none."""
