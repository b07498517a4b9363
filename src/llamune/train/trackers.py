"""Where else the losses go: trackers that transformers knows, checked before a run is made."""

from __future__ import annotations

from collections.abc import Sequence

from llamune.train.errors import TrainError

__all__ = ["check_trackers"]


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is not known or not installed.

    Raises:
        TrainError: with the ones that are.
    """
    if not names:
        return
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    installed = get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise TrainError(f"no tracker is called {name!r}", hint=f"trackers: {known}")
        if name not in installed:
            raise TrainError(
                f"the tracker {name} is not installed", hint=f"pip install {name}, or leave it out"
            )
