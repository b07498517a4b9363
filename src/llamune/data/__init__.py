"""Examples: read every common format, check, clean, split, render and mask, pack."""

from llamune.data.answers import Template
from llamune.data.checking import Inspector, check
from llamune.data.cleaning import DROPPABLE, FIXES, Cleaned, clean
from llamune.data.errors import DataError
from llamune.data.files import convert, nth_record, split_files
from llamune.data.findings import KINDS, Example, Finding, Flaw
from llamune.data.fingerprints import fingerprint
from llamune.data.packing import (
    IGNORED,
    Pack,
    best_fit,
    by_length,
    filled_length,
    pack,
    padding_share,
)
from llamune.data.page import page
from llamune.data.reading import DataFile, Reader, Records, data_files, open_reader, read_records
from llamune.data.records import Message, Problem, Record, Source
from llamune.data.rendering import TRAIN_ON, Rendered, Tokens, render
from llamune.data.report import PURPOSES, Lengths, Report
from llamune.data.similar import groups_of
from llamune.data.splitting import split
from llamune.data.training import TrainingData, prepare
from llamune.data.writing import FORMATS, fields_of, write_records

__all__ = [
    "DROPPABLE",
    "FIXES",
    "FORMATS",
    "IGNORED",
    "KINDS",
    "PURPOSES",
    "TRAIN_ON",
    "Cleaned",
    "DataError",
    "DataFile",
    "Example",
    "Finding",
    "Flaw",
    "Inspector",
    "Lengths",
    "Message",
    "Pack",
    "Problem",
    "Reader",
    "Record",
    "Records",
    "Rendered",
    "Report",
    "Source",
    "Template",
    "Tokens",
    "TrainingData",
    "best_fit",
    "by_length",
    "check",
    "clean",
    "convert",
    "data_files",
    "fields_of",
    "filled_length",
    "fingerprint",
    "groups_of",
    "nth_record",
    "open_reader",
    "pack",
    "padding_share",
    "page",
    "prepare",
    "read_records",
    "render",
    "split",
    "split_files",
    "write_records",
]
