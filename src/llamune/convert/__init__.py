"""File to file: another precision, which tensor gets which type, and the exact size."""

from llamune.convert.from_transformers import from_transformers
from llamune.convert.importance import Importance, read_importance
from llamune.convert.mixtures import ModelShape
from llamune.convert.planning import QuantizePlan, plan_quantize
from llamune.convert.quantizing import TensorError, check_plan, quantize, sample_errors
from llamune.convert.sizes import (
    PredictedSize,
    TypeShare,
    predict_size,
    predict_sizes,
    section_bytes,
    type_shares,
)
from llamune.convert.to_transformers import to_transformers
from llamune.convert.type_rules import TypeOptions, choose_types, model_shape
from llamune.gguf import FILE_TYPES, FileType, file_type, file_type_of_number

__all__ = [
    "FILE_TYPES",
    "FileType",
    "Importance",
    "ModelShape",
    "PredictedSize",
    "QuantizePlan",
    "TensorError",
    "TypeOptions",
    "TypeShare",
    "check_plan",
    "choose_types",
    "file_type",
    "file_type_of_number",
    "from_transformers",
    "model_shape",
    "plan_quantize",
    "predict_size",
    "predict_sizes",
    "quantize",
    "read_importance",
    "sample_errors",
    "section_bytes",
    "to_transformers",
    "type_shares",
]
