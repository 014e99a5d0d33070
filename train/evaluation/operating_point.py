"""Operating points of a model that can reject: how well its chances tell expressions apart."""

from collections.abc import Sequence

import numpy as np

from .results import Row

FALSE_ALARMS = 0.05  # share of the expressions with a target that may be rejected


def operating_point(rows: Sequence[Row]) -> dict[str, float]:
    """`AUC`, the area under the ROC curve, and the chance `above` which to reject.

    That chance is the lowest one at which at most `FALSE_ALARMS` of the expressions with a target are
    rejected; `N-acc` and `T-acc` are then those of these rows. Empty without chances, or where all
    expressions are of one kind.
    """
    known = [(row.target > 0, row.rejection) for row in rows if row.rejection is not None]
    nothing = np.sort(np.array([chance for target, chance in known if not target]))
    meant = np.sort(np.array([chance for target, chance in known if target]))
    if not len(nothing) or not len(meant):
        return {}
    below = np.searchsorted(meant, nothing, "left") + np.searchsorted(meant, nothing, "right")
    above = meant[len(meant) - 1 - int(FALSE_ALARMS * len(meant))]
    return {
        "AUC": float(below.mean() / 2 / len(meant)),
        "above": float(above),
        "N-acc": float((nothing > above).mean()),
        "T-acc": float((meant <= above).mean()),
    }
