"""Examples: read every common format, check, clean, split, render and mask, pack."""

from llamune.data.answers import Template
from llamune.data.checking import check
from llamune.data.errors import DataError
from llamune.data.findings import KINDS, Example, Finding, Flaw
from llamune.data.packing import IGNORED, Pack, by_length, pack, padding_share
from llamune.data.reading import DataFile, Reader, Records, data_files, open_reader, read_records
from llamune.data.records import Message, Problem, Record, Source
from llamune.data.rendering import TRAIN_ON, Rendered, Tokens, render
from llamune.data.report import PURPOSES, Lengths, Report
from llamune.data.similar import groups_of
from llamune.data.splitting import split
from llamune.data.training import TrainingData, fingerprint, prepare

__all__ = [
    "IGNORED",
    "KINDS",
    "PURPOSES",
    "TRAIN_ON",
    "DataError",
    "DataFile",
    "Example",
    "Finding",
    "Flaw",
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
    "by_length",
    "check",
    "data_files",
    "fingerprint",
    "groups_of",
    "open_reader",
    "pack",
    "padding_share",
    "prepare",
    "read_records",
    "render",
    "split",
]
