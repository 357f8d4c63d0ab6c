"""What arithmetic `precision: auto` is for CapFilt: settled in the store, or by the plan of a dataset that has none."""

from components.common.precision import AUTOMATIC
from components.common.storage import Store
from components.data.manifest import is_planned
from components.inference.settling import settled
from components.regeneration.config import CapfiltConfig
from components.regeneration.engines import engine_precision
from components.regeneration.finding import bands_key
from components.regeneration.plan import Plan


def settled_in_store(config: CapfiltConfig, store: Store) -> CapfiltConfig:
    """The config in the arithmetic of the store; the first time it is the one that is fast where the engine works.

    Raises:
        DataError: what was written down cannot be read.
    """
    return settled(config, store, "capfilt", lambda: engine_precision(config))


def settled_alone(plan: Plan, out: Store) -> Plan:
    """The same for a dataset that stands alone, in no store: its plan is what was written down."""
    if plan.config.precision != "auto":
        return plan
    choices = {precision: plan.at(precision) for precision in AUTOMATIC}
    begun = (one for one in choices.values() if is_planned(out, one.as_json()) or _has_bands(one, out))
    return next(begun, None) or plan.at(engine_precision(plan.config))


def _has_bands(plan: Plan, out: Store) -> bool:
    """Whether the bands of a plan that has none were found already: then its sample was worked on in its arithmetic."""
    return plan.config.needs_band and out.exists(bands_key(plan))
