"""What a training costs: electricity at home, or hours in a cloud."""

from __future__ import annotations

from dataclasses import dataclass

from llamune.plan.machines import Machine
from llamune.plan.profiles import CloudPrice, cloud_prices, electricity, known_device
from llamune.plan.settings import Settings
from llamune.plan.shape import Shape
from llamune.plan.timing import TimePlan, utilisation

__all__ = ["CloudCost", "PowerCost", "cloud_costs", "power_cost", "watts_of"]

USUAL_WATTS = {"cpu": 65.0, "mps": 60.0, "cuda": 350.0}  # where no profile says it
HOST_WATTS = 80.0  # the computer around a graphics card
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class PowerCost:
    """Electricity of a training.

    Args:
        kwh_low: kilowatt-hours at best.
        kwh_high: at worst.
        low: money at best.
        high: at worst.
        currency: of the money.
        formula: how it was worked out.
    """

    kwh_low: float
    kwh_high: float
    low: float
    high: float
    currency: str
    formula: str


@dataclass(frozen=True, kw_only=True)
class CloudCost:
    """The same work on a rented machine."""

    price: CloudPrice
    hours_low: float
    hours_high: float

    @property
    def usd_low(self) -> float:
        """Dollars at best."""
        return self.hours_low * self.price.usd_per_hour

    @property
    def usd_high(self) -> float:
        """Dollars at worst."""
        return self.hours_high * self.price.usd_per_hour


def watts_of(machine: Machine) -> float:
    """Return what a machine takes at the wall while it trains, as far as is known."""
    if machine.watts:
        return machine.watts + (HOST_WATTS if machine.device == "cuda" else 0.0)
    return USUAL_WATTS[machine.device]


def power_cost(machine: Machine, time: TimePlan) -> PowerCost:
    """Return the electricity of a training on a machine."""
    price, watts = electricity(), watts_of(machine)
    low = time.total_low / SECONDS_PER_HOUR * watts / 1000
    high = time.total_high / SECONDS_PER_HOUR * watts / 1000
    return PowerCost(
        kwh_low=low,
        kwh_high=high,
        low=low * price.per_kwh,
        high=high * price.per_kwh,
        currency=price.currency,
        formula=f"{watts:g} W × hours × {price.per_kwh:g} {price.currency}/kWh ({price.source})",
    )


def cloud_costs(shape: Shape, settings: Settings, time: TimePlan) -> list[CloudCost]:
    """Return what the same work costs on rented GPUs, the cheapest first.

    Only GPUs whose memory could hold the model's weights are named.
    """
    costs = []
    for price in cloud_prices():
        profile = known_device(price.device)
        if profile.memory_bytes < shape.file_bytes * (1 if settings.is_adapter else 2):
            continue
        slow, fast = utilisation(profile.kind, shape.n_parameters)
        peak = profile.tflops * 1e12
        costs.append(
            CloudCost(
                price=price,
                hours_low=time.flops / (peak * fast) / SECONDS_PER_HOUR,
                hours_high=time.flops / (peak * slow) / SECONDS_PER_HOUR,
            )
        )
    return sorted(costs, key=lambda cost: cost.usd_high)
