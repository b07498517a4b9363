"""What one pass over text tells: second moments, importance, rounding with error compensation."""

from llamune.calibrate.compensate import Rounded, compensate
from llamune.calibrate.errors import CalibrateError
from llamune.calibrate.grids import has_grid
from llamune.calibrate.importance import squared_inputs, write_importance
from llamune.calibrate.rounding import Compensated, TensorGain, round_model
from llamune.calibrate.windows import Windows, mixed, windows_of

__all__ = [
    "CalibrateError",
    "Compensated",
    "Rounded",
    "TensorGain",
    "Windows",
    "compensate",
    "has_grid",
    "mixed",
    "round_model",
    "squared_inputs",
    "windows_of",
    "write_importance",
]
