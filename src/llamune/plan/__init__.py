"""What a training or a loaded model will take: memory, time, money; and what would fit instead.

Every figure comes from the file's header, the recipe and the machine; nothing is loaded.
"""

from llamune.plan.machines import Accelerator, Machine, bytes_of, detect
from llamune.plan.memory import MemoryPlan, Part, Settings, lora_parameters, training_memory
from llamune.plan.shape import Linear, Shape, shape_of
from llamune.plan.timing import Speed, TimePlan, Work, speed_of, training_time
from llamune.plan.training import (
    Plan,
    Verdict,
    largest_micro_batch,
    plan_settings,
    plan_training,
    settings_of,
    verdict,
)

__all__ = [
    "Accelerator",
    "Linear",
    "Machine",
    "MemoryPlan",
    "Part",
    "Plan",
    "Settings",
    "Shape",
    "Speed",
    "TimePlan",
    "Verdict",
    "Work",
    "bytes_of",
    "detect",
    "largest_micro_batch",
    "lora_parameters",
    "plan_settings",
    "plan_training",
    "settings_of",
    "shape_of",
    "speed_of",
    "training_memory",
    "training_time",
    "verdict",
]
