"""The GGUF file format: checked reader, streaming writer, quant types, rows to floats and back."""

from llamune.gguf.errors import GgufError, MissingKey, UnsupportedFileError
from llamune.gguf.file_types import FILE_TYPES, FileType, file_type, file_type_of_number
from llamune.gguf.header import TensorInfo
from llamune.gguf.kernels import (
    floats_to_rows,
    needs_importance,
    rows_are_finite,
    rows_to_floats,
)
from llamune.gguf.metadata import Metadata
from llamune.gguf.model_file import ModelFile, shard_paths
from llamune.gguf.quant_types import QUANT_TYPES, QuantType, quant_type
from llamune.gguf.rounding import Rounding, nearest
from llamune.gguf.values import Entry, ValueType
from llamune.gguf.writer import NewTensor, header_bytes, write_gguf

__all__ = [
    "FILE_TYPES",
    "QUANT_TYPES",
    "Entry",
    "FileType",
    "GgufError",
    "Metadata",
    "MissingKey",
    "ModelFile",
    "NewTensor",
    "QuantType",
    "Rounding",
    "TensorInfo",
    "UnsupportedFileError",
    "ValueType",
    "file_type",
    "file_type_of_number",
    "floats_to_rows",
    "header_bytes",
    "nearest",
    "needs_importance",
    "quant_type",
    "rows_are_finite",
    "rows_to_floats",
    "shard_paths",
    "write_gguf",
]
