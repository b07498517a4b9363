"""What one pass over text tells: second moments, importance, rounding with error compensation."""

from llamune.calibrate.budget import Choice, best_choices
from llamune.calibrate.compensate import Inputs, Rounded, compensate
from llamune.calibrate.cost import Cost, forecast
from llamune.calibrate.errors import CalibrateError
from llamune.calibrate.grids import has_grid
from llamune.calibrate.importance import squared_inputs, write_importance
from llamune.calibrate.predicting import predicted_losses
from llamune.calibrate.rounding import Compensated, TensorGain, WeightOf, round_model
from llamune.calibrate.windows import Windows, mixed, windows_of

__all__ = [
    "CalibrateError",
    "Choice",
    "Compensated",
    "Cost",
    "Inputs",
    "Rounded",
    "TensorGain",
    "WeightOf",
    "Windows",
    "best_choices",
    "compensate",
    "forecast",
    "has_grid",
    "mixed",
    "predicted_losses",
    "round_model",
    "squared_inputs",
    "windows_of",
    "write_importance",
]
