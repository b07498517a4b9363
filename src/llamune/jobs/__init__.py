"""A person's whole job, rooms in order. The Python API is this."""

from llamune.jobs.adapter_files import export_adapter, import_adapter
from llamune.jobs.calibrating import cost_text, gains_text
from llamune.jobs.events import JobEvent, OnJobEvent, Refitted, Settled, Stage
from llamune.jobs.following import follow, leads
from llamune.jobs.formats import bytes_text, range_text, seconds_text
from llamune.jobs.guard import awake, supervise
from llamune.jobs.log import lines_of
from llamune.jobs.merging import Candidate, HeldOutLosses, MergeReport, merge
from llamune.jobs.packaging import PackageWishes, package
from llamune.jobs.planning import (
    Calibration,
    ModelPlan,
    Wishes,
    calibrate,
    machine_json,
    plan_model,
    resident_together,
    table_row,
)
from llamune.jobs.preparing import Opened, Prepared, opened, prepare_training
from llamune.jobs.quantizing import (
    calibration_cost,
    fit_plan,
    make_importance,
    rounding_for_plan,
)
from llamune.jobs.recipes import recipe_for
from llamune.jobs.report import report_again, report_of
from llamune.jobs.telling import check_verdict, look_hint, score_line, stopped_hint, summary
from llamune.jobs.tuning import resume, tune
from llamune.jobs.type_mixes import Fit, MixComparison
from llamune.jobs.uploading import upload

__all__ = [
    "Calibration",
    "Candidate",
    "Fit",
    "HeldOutLosses",
    "JobEvent",
    "MergeReport",
    "MixComparison",
    "ModelPlan",
    "OnJobEvent",
    "Opened",
    "PackageWishes",
    "Prepared",
    "Refitted",
    "Settled",
    "Stage",
    "Wishes",
    "awake",
    "bytes_text",
    "calibrate",
    "calibration_cost",
    "check_verdict",
    "cost_text",
    "export_adapter",
    "fit_plan",
    "follow",
    "gains_text",
    "import_adapter",
    "leads",
    "lines_of",
    "look_hint",
    "machine_json",
    "make_importance",
    "merge",
    "opened",
    "package",
    "plan_model",
    "prepare_training",
    "range_text",
    "recipe_for",
    "report_again",
    "report_of",
    "resident_together",
    "resume",
    "rounding_for_plan",
    "score_line",
    "seconds_text",
    "stopped_hint",
    "summary",
    "supervise",
    "table_row",
    "tune",
    "upload",
]
