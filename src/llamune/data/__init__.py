"""Examples: read every common format, check, clean, split, render and mask, pack."""

from llamune.data.answers import Template
from llamune.data.errors import DataError
from llamune.data.packing import IGNORED, Pack, by_length, pack, padding_share
from llamune.data.reading import DataFile, Reader, Records, data_files, open_reader, read_records
from llamune.data.records import Message, Problem, Record, Source
from llamune.data.rendering import TRAIN_ON, Rendered, Tokens, render
from llamune.data.splitting import split
from llamune.data.training import TrainingData, fingerprint, prepare

__all__ = [
    "IGNORED",
    "TRAIN_ON",
    "DataError",
    "DataFile",
    "Message",
    "Pack",
    "Problem",
    "Reader",
    "Record",
    "Records",
    "Rendered",
    "Source",
    "Template",
    "Tokens",
    "TrainingData",
    "by_length",
    "data_files",
    "fingerprint",
    "open_reader",
    "pack",
    "padding_share",
    "prepare",
    "read_records",
    "render",
    "split",
]
