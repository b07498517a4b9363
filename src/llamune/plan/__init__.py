"""What a training or a loaded model will take: memory, time, money; and what would fit instead.

Every figure comes from the file's header, the recipe and the machine; nothing is loaded.
"""

from llamune.plan.advice import Option, nearest_that_fit
from llamune.plan.audit import Audit, AuditedRun, audit
from llamune.plan.calibration import Experience, experience, known_compute
from llamune.plan.cost import CloudCost, PowerCost, cloud_costs, power_cost, watts_of
from llamune.plan.disk import disk_bytes, load_seconds, tokens_per_second
from llamune.plan.history import PastRun, past_runs
from llamune.plan.machines import Accelerator, Machine, bytes_of, detect
from llamune.plan.memory import MemoryPlan, Part, training_memory
from llamune.plan.profiles import (
    CloudPrice,
    Profile,
    cloud_prices,
    device_machine,
    electricity,
    machine_of_memory,
    profiles,
)
from llamune.plan.published import known_models, published_license, published_shape
from llamune.plan.recommend import MERGE_TYPES, PURPOSES, Purpose, Recommendation, recommend
from llamune.plan.refit import refit
from llamune.plan.running import CACHE_TYPES, cache_bytes, compute_bytes, running_memory
from llamune.plan.settings import METHODS, Settings, lora_parameters
from llamune.plan.shape import Linear, Shape, shape_of
from llamune.plan.timing import Speed, TimePlan, Work, speed_of, training_time
from llamune.plan.training import (
    Plan,
    Verdict,
    is_uncalibrated,
    largest_micro_batch,
    plan_settings,
    plan_training,
    settings_of,
    shape_key,
    usual_compute_type,
    verdict,
)

__all__ = [
    "CACHE_TYPES",
    "MERGE_TYPES",
    "METHODS",
    "PURPOSES",
    "Accelerator",
    "Audit",
    "AuditedRun",
    "CloudCost",
    "CloudPrice",
    "Experience",
    "Linear",
    "Machine",
    "MemoryPlan",
    "Option",
    "Part",
    "PastRun",
    "Plan",
    "PowerCost",
    "Profile",
    "Purpose",
    "Recommendation",
    "Settings",
    "Shape",
    "Speed",
    "TimePlan",
    "Verdict",
    "Work",
    "audit",
    "bytes_of",
    "cache_bytes",
    "cloud_costs",
    "cloud_prices",
    "compute_bytes",
    "detect",
    "device_machine",
    "disk_bytes",
    "electricity",
    "experience",
    "is_uncalibrated",
    "known_compute",
    "known_models",
    "largest_micro_batch",
    "load_seconds",
    "lora_parameters",
    "machine_of_memory",
    "nearest_that_fit",
    "past_runs",
    "plan_settings",
    "plan_training",
    "power_cost",
    "profiles",
    "published_license",
    "published_shape",
    "recommend",
    "refit",
    "running_memory",
    "settings_of",
    "shape_key",
    "shape_of",
    "speed_of",
    "tokens_per_second",
    "training_memory",
    "training_time",
    "usual_compute_type",
    "verdict",
    "watts_of",
]
