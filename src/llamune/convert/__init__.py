"""File to file: another precision, which tensor gets which type, and the exact size."""

from llamune.convert.file_types import FILE_TYPES, FileType, file_type, file_type_of_number
from llamune.convert.from_transformers import from_transformers

__all__ = ["FILE_TYPES", "FileType", "file_type", "file_type_of_number", "from_transformers"]
