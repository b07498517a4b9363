"""A person's whole job, rooms in order. The Python API is this."""

from llamune.jobs.events import JobEvent, OnJobEvent, Settled, Stage
from llamune.jobs.formats import bytes_text, range_text, seconds_text
from llamune.jobs.preparing import Opened, Prepared, opened, prepare_training
from llamune.jobs.report import report_of
from llamune.jobs.tuning import check_verdict, resume, stopped_hint, summary, tune

__all__ = [
    "JobEvent",
    "OnJobEvent",
    "Opened",
    "Prepared",
    "Settled",
    "Stage",
    "bytes_text",
    "check_verdict",
    "opened",
    "prepare_training",
    "range_text",
    "report_of",
    "resume",
    "seconds_text",
    "stopped_hint",
    "summary",
    "tune",
]
