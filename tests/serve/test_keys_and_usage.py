"""Keys are kept as hashes; finished requests are counted once and for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from llamune import serve
from llamune.cli import _main
from llamune.errors import LlamuneError
from llamune.serve.database import request_table
from llamune.serve.usage import used_since


def test_a_key_is_found_until_it_is_revoked(database: Engine) -> None:
    key = serve.create_key(database, "alice", requests_per_minute=3)
    other = serve.create_key(database, "bob")
    found = serve.find_key(database, key)
    assert found is not None
    assert (found.name, found.requests_per_minute) == ("alice", 3)
    serve.revoke_key(database, "alice")
    assert serve.find_key(database, key) is None
    assert serve.find_key(database, other) is not None
    assert serve.find_key(database, "lln_guess") is None


def test_the_key_itself_is_kept_nowhere(home: Path) -> None:
    database = serve.open_database()
    key = serve.create_key(database, "alice")
    database.dispose()
    kept = b"".join(path.read_bytes() for path in home.rglob("serve.sqlite3*"))
    assert b"alice" in kept
    assert key.encode() not in kept


@pytest.mark.parametrize("name", ["", "a/b", "x" * 81, "a\nb"])
def test_odd_key_names_are_refused(database: Engine, name: str) -> None:
    with pytest.raises(LlamuneError, match="key name"):
        serve.create_key(database, name)


def test_a_name_is_given_once_and_revoked_once(database: Engine) -> None:
    serve.create_key(database, "alice")
    with pytest.raises(LlamuneError, match="is taken"):
        serve.create_key(database, "alice")
    serve.revoke_key(database, "alice")
    with pytest.raises(LlamuneError, match="no key named 'alice' is in force"):
        serve.revoke_key(database, "alice")


def fill(database: Engine) -> None:
    """Count three requests of two keys on two days."""
    for name in ("alice", "bob"):
        serve.create_key(database, name)
    alice, bob = (key.id for key in serve.list_keys(database))
    for number, (key_id, model, prompt, completion) in enumerate(
        [(alice, "tickets", 100, 10), (alice, "tickets", 200, 20), (bob, "starter", 50, 5)]
    ):
        serve.record_request(
            database,
            request_id=f"request-{number}",
            key_id=key_id,
            model=model,
            adapter=None,
            prompt_tokens=prompt,
            completion_tokens=completion,
            seconds=0.5,
        )
    first = request_table.c.id == "request-0"
    with database.begin() as connection:
        day = 1_700_000_000_000  # 2023-11-14 22:13 UTC
        connection.execute(update(request_table).where(first).values(finished_ms=day))


def test_requests_are_summed_by_each_group(database: Engine) -> None:
    fill(database)
    prices = {"tickets": serve.Price(prompt=Decimal(2), completion=Decimal(10), currency="USD")}
    by_key = serve.usage_by(database, ["key"], prices=prices)
    assert [
        (row.group, row.requests, row.prompt_tokens, row.completion_tokens) for row in by_key
    ] == [
        (("alice",), 2, 300, 30),
        (("bob",), 1, 50, 5),
    ]
    assert by_key[0].amount == (Decimal(2) * 300 + Decimal(10) * 30) / 1_000_000
    assert by_key[1].amount is None
    (total,) = serve.usage_by(database, [])
    assert (total.requests, total.prompt_tokens, total.seconds) == (3, 350, 1.5)
    old = serve.usage_by(database, ["day"], until=date(2023, 11, 14))
    assert [(row.group, row.prompt_tokens) for row in old] == [(("2023-11-14",), 100)]
    assert serve.usage_by(database, ["day"], until=date(2023, 11, 13)) == []
    with pytest.raises(LlamuneError, match="cannot group by 'hour'"):
        serve.usage_by(database, ["hour"])


def test_a_request_is_never_counted_twice(database: Engine) -> None:
    row = {
        "request_id": "one",
        "key_id": None,
        "model": "m",
        "adapter": None,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "seconds": 0.1,
    }
    assert serve.record_request(database, **row)
    assert not serve.record_request(database, **row)
    (total,) = serve.usage_by(database, [])
    assert total.requests == 1


def test_use_of_the_last_minute_counts_for_limits(database: Engine) -> None:
    fill(database)
    alice = serve.list_keys(database)[0].id
    assert used_since(database, key_id=alice, since_ms=1_700_000_000_001) == (1, 220)


def test_counts_survive_a_killed_process(home: Path) -> None:
    code = """
import os, signal
from llamune import serve
database = serve.open_database()
for n in range(5):
    serve.record_request(database, key_id=None, model="m", adapter=None, prompt_tokens=n,
                         completion_tokens=1, seconds=0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    (total,) = serve.usage_by(serve.open_database(), [])
    assert (total.requests, total.prompt_tokens) == (5, 10)


def test_prices_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('["*"]\nprompt = 0.1\ncompletion = 0.3\ncurrency = "JPY"\n')
    assert serve.read_prices(path)["*"].completion == Decimal("0.3")
    path.write_text('["m"]\nprompt = "free"\ncompletion = 0.3\ncurrency = "JPY"\n')
    with pytest.raises(LlamuneError, match="prompt"):
        serve.read_prices(path)
    path.write_text("[")
    with pytest.raises(LlamuneError, match="not a TOML file"):
        serve.read_prices(path)


def test_a_bad_database_url_is_one_clear_error() -> None:
    for url in ("nonsense", "nosuch://x", "postgresql+psycopg://127.0.0.1:1/x"):
        with pytest.raises(serve.DatabaseError):
            serve.open_database(url)


def test_the_commands_show_keys_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main.run(["keys", "create", "alice"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("lln_")
    assert _main.run(["keys", "list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["name"] == "alice"
    assert key not in json.dumps(entry)
    fill_one = {"model": "m", "adapter": None, "prompt_tokens": 7, "completion_tokens": 2}
    serve.record_request(serve.open_database(), key_id=entry["id"], seconds=1.0, **fill_one)
    assert _main.run(["usage", "--by", "key", "--csv"]) == 0
    assert "alice,1,7,2,1.0,," in capsys.readouterr().out
    assert _main.run(["usage", "--since", "yesterday"]) == 2
    assert _main.run(["keys", "revoke", "alice"]) == 0
    assert _main.run(["keys", "revoke", "alice"]) == 2
