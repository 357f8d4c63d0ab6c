"""The page of a pilot: what the whole would give and cost, and some images with what is kept and refused of them."""

from collections.abc import Sequence
from pathlib import Path

from components.common.progress import clock
from components.pages.report_data import Example
from components.regeneration.pilot import Estimate, PilotResult


def render_pilot(pilot: PilotResult, name: str, examples: Sequence[Example]) -> str:
    """The page as text, one self-contained HTML file."""
    from components.pages.templates import templates  # jinja2 comes with it

    template = templates(Path(__file__).parent).get_template("pilot.html.j2")
    return template.render(name=name, pilot=pilot, figures=pilot_figures(pilot), examples=examples)


def pilot_figures(pilot: PilotResult) -> list[tuple[str, str]]:
    """What a pilot says, in words and figures."""
    about = "" if pilot.counted else "about "
    found = [
        ("images drawn", f"{pilot.images:,} of {about}{pilot.of:,}, from {pilot.shards:,} shards"),
        ("images that keep a text", _share(pilot.kept)),
        ("pairs of the whole", f"about {pilot.pairs:,}"),
    ]
    found += [(f"{source} texts rejected", f"{share:.1%}") for source, share in sorted(pilot.noise.items())]
    if pilot.precision is not None:
        found.append((f"kept texts that fit, by {pilot.precision_by}", _share(pilot.precision)))
    rate = f"{clock(pilot.seconds)} at {pilot.images_per_second:.3g} images a second"
    found.append(("time of the whole", f"about {rate}, behind the loading of the models"))
    if pilot.requests is not None:
        found.append(("requests of the whole", f"about {pilot.requests:,}"))
        found.append(("tokens answered", "nobody knows yet" if pilot.tokens is None else f"about {pilot.tokens:,}"))
    return found


def _share(one: Estimate) -> str:
    return f"{one.value:.1%} (95 %: {one.interval.low:.1%} to {one.interval.high:.1%})"
