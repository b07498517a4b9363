"""What was used: one row for each finished request, summed by day, key or model."""

from __future__ import annotations

import tomllib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Engine, Select, func, insert, select
from sqlalchemy.exc import IntegrityError

from llamune.errors import LlamuneError
from llamune.serve.database import key_table, now_ms, request_table
from llamune.store import home

__all__ = ["GROUPS", "Price", "Usage", "read_prices", "record_request", "usage_by", "used_since"]

DAY_MS = 86_400_000
GROUPS = ("day", "key", "model")
ANY_MODEL = "*"
PER_MILLION = Decimal(1_000_000)


@dataclass(frozen=True)
class Usage:
    """The sums of one group of requests."""

    group: tuple[str, ...]  # the values of the columns grouped by, in their order
    requests: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    amount: Decimal | None  # None where no price is known for one of its models
    currency: str | None


class Price(BaseModel):
    """What a million tokens of a model cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Decimal
    completion: Decimal
    currency: str

    def amount(self, *, prompt_tokens: int, completion_tokens: int) -> Decimal:
        """Return the price of some tokens, in the currency's unit."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / PER_MILLION


def record_request(
    database: Engine,
    *,
    request_id: str | None = None,
    key_id: int | None,
    model: str,
    adapter: str | None,
    prompt_tokens: int,
    completion_tokens: int,
    seconds: float,
) -> bool:
    """Count a finished request, durably before this returns.

    Args:
        database: where it is kept.
        request_id: identifies the request; a second row of the same id is not counted.
        key_id: the key that asked; None on loopback without keys.
        model: name the client asked for.
        adapter: digest or name of the adapter in use, None for a plain model.
        prompt_tokens: tokens read.
        completion_tokens: tokens written.
        seconds: from the request's arrival to its last token.

    Returns:
        Whether it was counted now; False when that id had been counted before.
    """
    row = {
        "id": request_id or str(uuid.uuid4()),
        "key_id": key_id,
        "model": model,
        "adapter": adapter,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "seconds": seconds,
        "finished_ms": now_ms(),
    }
    try:
        with database.begin() as connection:
            connection.execute(insert(request_table).values(row))
    except IntegrityError:
        with database.connect() as connection:
            known = select(request_table.c.id).where(request_table.c.id == row["id"])
            if connection.execute(known).one_or_none() is None:
                raise
        return False
    return True


def used_since(database: Engine, *, key_id: int, since_ms: int) -> tuple[int, int]:
    """Return how many requests and tokens a key has used since a time."""
    table = request_table.c
    tokens = func.coalesce(func.sum(table.prompt_tokens + table.completion_tokens), 0)
    query = select(func.count(), tokens).where(
        table.key_id == key_id, table.finished_ms >= since_ms
    )
    with database.connect() as connection:
        requests, tokens_used = connection.execute(query).one()
    return int(requests), int(tokens_used)


def usage_by(
    database: Engine,
    groups: Sequence[str],
    *,
    since: date | None = None,
    until: date | None = None,
    prices: dict[str, Price] | None = None,
) -> list[Usage]:
    """Return the sums of all requests, grouped.

    Args:
        database: where they are kept.
        groups: which of `GROUPS` to group by; empty for one grand total.
        since: first day, UTC; until: last day, UTC, itself included.
        until: last day, UTC, itself included.
        prices: price of each model; `*` stands for any other.

    Raises:
        LlamuneError: a group is not one of `GROUPS`, or models of one group are priced in
            different currencies.
    """
    if unknown := [name for name in groups if name not in GROUPS]:
        raise LlamuneError(f"cannot group by {unknown[0]!r}", hint=f"one of: {', '.join(GROUPS)}")
    with database.connect() as connection:
        rows = connection.execute(sums_by_day_key_model(since, until)).all()
    table: dict[tuple[str, ...], Usage] = {}
    for day, key, model, *sums in rows:
        names = {"day": day_text(int(day)), "key": key or "(no key)", "model": model}
        group = tuple(names[name] for name in groups)
        part = priced(group, model, sums, prices or {})
        table[group] = total(table[group], part) if group in table else part
    return [table[group] for group in sorted(table)]


def sums_by_day_key_model(since: date | None, until: date | None) -> Select[Any]:
    """Return the query for the finest sums that any report needs."""
    table = request_table.c
    day = (table.finished_ms - table.finished_ms % DAY_MS).label("day")
    query = (
        select(
            day,
            key_table.c.name,
            table.model,
            func.count(),
            func.sum(table.prompt_tokens),
            func.sum(table.completion_tokens),
            func.sum(table.seconds),
        )
        .select_from(request_table.outerjoin(key_table))
        .group_by(day, key_table.c.name, table.model)
    )
    if since is not None:
        query = query.where(table.finished_ms >= start_ms(since))
    if until is not None:
        query = query.where(table.finished_ms < start_ms(until) + DAY_MS)
    return query


def priced(
    group: tuple[str, ...], model: str, sums: Sequence[float], prices: dict[str, Price]
) -> Usage:
    """Return one sum with its amount, where its model has a price."""
    requests, prompt_tokens, completion_tokens = (int(value) for value in sums[:3])
    price = prices.get(model, prices.get(ANY_MODEL))
    amount = None
    if price is not None:
        amount = price.amount(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    return Usage(
        group=group,
        requests=requests,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        seconds=float(sums[3]),
        amount=amount,
        currency=None if price is None else price.currency,
    )


def total(one: Usage, other: Usage) -> Usage:
    """Return the sum of two parts of a group."""
    amount = None
    if one.amount is not None and other.amount is not None:
        amount = one.amount + other.amount
    if amount is not None and one.currency != other.currency:
        raise LlamuneError(
            f"amounts in {one.currency} and {other.currency} cannot be added",
            hint="group by model, or give all prices in one currency",
        )
    return Usage(
        group=one.group,
        requests=one.requests + other.requests,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        seconds=one.seconds + other.seconds,
        amount=amount,
        currency=None if amount is None else one.currency,
    )


def read_prices(path: Path | None = None) -> dict[str, Price]:
    """Read prices: a TOML table for each model, or `"*"` for any other.

    Args:
        path: the file; default `prices.toml` under `$LLAMUNE_HOME`, if there.

    Raises:
        LlamuneError: the file is missing or cannot be read as prices.
    """
    if path is None:
        path = home() / "prices.toml"
        if not path.exists():
            return {}
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        return {model: Price.model_validate(entry) for model, entry in entries.items()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LlamuneError(f"{path}: not a TOML file: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LlamuneError(
            f"{path}: {where}: {first['msg']}",
            hint='for example ["tickets"] with prompt = 0.2, completion = 0.6, currency = "USD"',
        ) from error


def day_text(day_ms: int) -> str:
    """Return a day as `2026-11-24`, UTC."""
    return datetime.fromtimestamp(day_ms / 1000, UTC).date().isoformat()


def start_ms(day: date) -> int:
    """Return the first millisecond of a day, UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
