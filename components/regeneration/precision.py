"""What arithmetic `precision: auto` is: found out once per store, and written down there.

So all rounds of a store are made in the same arithmetic, whichever machine goes on with it. A setting other than `auto`
counts as it stands.
"""

import logging
from typing import get_args

from components.common.errors import DataError
from components.common.storage import Store, join_uri
from components.data.commits import load_json
from components.data.manifest import is_planned
from components.data.records import pretty
from components.inference.arithmetic import Precision
from components.regeneration.config import CapfiltConfig
from components.regeneration.engines import engine_precision
from components.regeneration.plan import Plan

logger = logging.getLogger(__name__)

PRECISION_KEY = "precision.json"


def settled(config: CapfiltConfig, store: Store) -> CapfiltConfig:
    """The config in the arithmetic of the store; the first time it is the one that is fast where the work will be.

    Raises:
        DataError: what was written down cannot be read.
    """
    if config.precision != "auto":
        return config
    if not store.exists(PRECISION_KEY):
        found = {"capfilt": engine_precision(config)}
        store.write(PRECISION_KEY, pretty(found), if_absent=True)
    where = join_uri(store.uri, PRECISION_KEY)
    precision = load_json(store.read(PRECISION_KEY), where).get("capfilt")
    if precision not in get_args(Precision):
        raise DataError(f"{where} names no arithmetic: it must hold `capfilt`: {' or '.join(get_args(Precision))}")
    logger.info("arithmetic in %s, as %s has it", precision, where)
    return config.model_copy(update={"precision": precision})


def settled_alone(plan: Plan, out: Store) -> Plan:
    """The same for a dataset that stands alone, in no store: its plan is what was written down."""
    if plan.config.precision != "auto":
        return plan
    choices: dict[Precision, Plan] = {precision: plan.at(precision) for precision in get_args(Precision)}
    begun = (one for one in choices.values() if is_planned(out, one.as_json()))
    return next(begun, None) or choices[engine_precision(plan.config)]
