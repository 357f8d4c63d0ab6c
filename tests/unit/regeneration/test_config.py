"""CapFilt's settings: which combinations make no sense, and what counts as the output."""

import pytest
from pydantic import ValidationError

from components.regeneration.config import CalibrationConfig, CapfiltConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_precision": 0.9, "coin": 0.5}, "a coin looks at none"),
        ({"target_precision": 0.5}, "asks for no filter"),
        (
            {"target_precision": 0.6, "calibration": {"bad_share": 0.3}},
            "the share of right texts is 0.7 before filtering",
        ),
        ({"target_precision": 1.0}, "less than 1"),
        ({"calibration": {"bad_share": 1.0}}, "less than 1"),
        ({"calibration": {"images": 1}}, "greater than or equal to 2"),
    ],
)
def test_targets_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CapfiltConfig(**settings)


def test_only_the_threshold_decides_the_output_not_how_it_was_found() -> None:
    """Else every dataset of an earlier version would count as another one, and be made again."""
    measured = CapfiltConfig(target_precision=0.9, calibration=CalibrationConfig(images=9, drift=0.2))
    assert measured.effective() == CapfiltConfig().effective()
    assert not {"target_precision", "calibration"} & CapfiltConfig().effective().keys()
