"""A check finds what stands between records, counts all of it, and says how to mend it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from llamune.data import (
    DROPPABLE,
    FORMATS,
    KINDS,
    DataError,
    Inspector,
    Record,
    Report,
    check,
    clean,
    convert,
    groups_of,
    page,
    read_records,
    render,
    split_files,
)
from llamune.data.signatures import jaccard
from llamune.words import LANGUAGES
from tests.data.fakes import CHATML, ByteTokens, JinjaTemplate

WORDS = re.findall(
    r"\w+",
    """river stone window paper green seven walk under light bread mountain quiet station blue
    garden early letter number open water north table simple friend silver morning road""",
)


def sentence(seed: int, n_words: int = 24) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(n_words)) + "."


def pair(seed: int, **fields: Any) -> dict[str, Any]:
    return {"prompt": sentence(seed), "completion": sentence(seed + 10_000), **fields}


def written(path: Path, records: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n")
    return path


def counts(report: Report) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def test_clean_data_has_no_finding(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [pair(seed) for seed in range(150)])
    report = check([path], purpose="task")
    assert report.findings == ()
    assert report.n_records == 150
    assert report.clean_share == 1


def test_finds_what_stands_between_records(tmp_path: Path) -> None:
    near = pair(3)
    near["completion"] = near["completion"].replace(".", "!")
    records = [
        *[pair(seed) for seed in range(6)],
        pair(0),
        near,
        {**pair(5), "completion": sentence(77)},
    ]
    report = check([written(tmp_path / "a.jsonl", records)])
    assert counts(report) == {"duplicate": 1, "near_duplicate": 1, "contradiction": 2}
    examples = {f.kind: f.examples for f in report.findings}
    assert examples["duplicate"][0].source.number == 7
    assert examples["duplicate"][0].detail.endswith("a.jsonl:1")
    assert examples["near_duplicate"][0].source.line == 8
    assert [e.source.number for e in examples["contradiction"]] == [8, 9]
    assert report.clean_share == 6 / 9


def test_small_changes_of_form_make_no_new_record(tmp_path: Path) -> None:
    records = [{"prompt": "Ｈｅｌｌｏ  World", "completion": "a"}]
    records.append({"prompt": "hello world", "completion": "A"})
    report = check([written(tmp_path / "a.jsonl", records)])
    assert counts(report) == {"duplicate": 1}


def test_one_instruction_for_all_makes_none_alike(tmp_path: Path) -> None:
    instruction = "Sort the ticket below into one of the classes billing, account or delivery. " * 5
    records = [
        {"instruction": instruction, "input": sentence(seed, 6), "output": "billing"}
        for seed in range(60)
    ]
    assert check([written(tmp_path / "a.jsonl", records)]).findings == ()


def test_overlap_is_exact_near_or_the_same_question(tmp_path: Path) -> None:
    held = written(tmp_path / "held.jsonl", [pair(seed) for seed in range(4)])
    near = pair(1)
    near["prompt"] = near["prompt"].replace(".", " now.")
    other = {**pair(2), "completion": sentence(99)}
    path = written(tmp_path / "a.jsonl", [pair(0), near, other, pair(50)])
    report = check([path], held_out=[held])
    (finding,) = report.findings
    assert (finding.kind, finding.count, finding.severity) == ("overlap", 3, "error")
    assert [example.source.number for example in finding.examples] == [1, 2, 3]
    assert f"--held-out {held}" in finding.fix
    assert report.n_errors == 1


def test_a_folder_is_held_against_its_own_other_splits(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", [pair(seed) for seed in range(5)])
    written(tmp_path / "test.jsonl", [pair(3)])
    report = check([tmp_path])
    assert counts(report) == {"overlap": 1}
    assert report.n_records == 5
    assert "left out: test.jsonl" in report.notes[0]


def test_flaws_of_single_records_are_counted_once_each(tmp_path: Path) -> None:
    records = [
        {"prompt": sentence(1), "completion": ""},
        {"prompt": sentence(2), "completion": "<b></b><p>one</p> mail me: bob.lee@mail.org."},
        {"prompt": sentence(3), "completion": "</s></s> done."},
        {"prompt": sentence(4), "completion": "As an AI, I like rivers."},
        {"oops": 1},
        *[pair(seed) for seed in range(10, 15)],
    ]
    report = check([written(tmp_path / "a.jsonl", records)])
    assert counts(report) == {
        "empty_answer": 1,
        "html": 1,
        "personal_data": 1,
        "control_token": 1,
        "refusal": 1,
        "unreadable": 1,
    }
    assert (report.n_records, report.n_unreadable) == (9, 1)
    assert report.clean_share == 5 / 10


def test_lengths_are_those_of_the_rendered_record(tmp_path: Path) -> None:
    records = [{"prompt": f"q{n}", "completion": "a" * n} for n in (1, 5, 60)]
    path = written(tmp_path / "a.jsonl", records)
    tokens = ByteTokens()
    report = check([path], tokenizer=tokens, template=CHATML, max_length=64)
    expected = [len(render(r, CHATML, tokens).ids) for r in read_records([path]).records]
    assert report.lengths.unit == "tokens"
    assert report.lengths.total == sum(expected)
    assert (report.lengths.limit, report.lengths.n_beyond) == (64, 1)
    assert sum(report.lengths.counts) == 3
    assert counts(report) == {"too_long": 1}
    assert report.findings[0].examples[0].detail == f"{expected[2]} tokens, the limit is 64"


def test_a_record_that_the_template_refuses_is_unreadable(tmp_path: Path) -> None:
    class Refusing:
        text = ""

        def render(self, messages: Any, **options: Any) -> str:
            raise DataError("no system turn, please")

    path = written(tmp_path / "a.jsonl", [pair(1)])
    report = check([path], tokenizer=ByteTokens(), template=Refusing())
    assert counts(report) == {"unreadable": 1}
    assert "no system turn" in report.findings[0].examples[0].detail


def test_records_that_the_template_refuses_can_be_mended_or_dropped(tmp_path: Path) -> None:
    class NoSystem(JinjaTemplate):
        def render(self, messages: Any, **options: Any) -> str:
            if messages[0]["role"] == "system":
                raise DataError("no system turn, please")
            return super().render(messages, **options)

    fields = {"instruction": "q?", "input": "", "output": "Yes.", "system": "Be kind."}
    path = written(tmp_path / "a.jsonl", [fields, {**fields, "system": "", "output": "No."}])
    template, tokens = NoSystem(CHATML.text), ByteTokens()
    report = check([path], tokenizer=tokens, template=template, model="m:1")
    (unreadable,) = [f for f in report.findings if f.kind == "unreadable"]
    assert unreadable.fix == f"llamune data clean {path} --drop unreadable --model m:1 --out NEW"
    inspector = Inspector(tokenizer=tokens, template=template)

    clean([path], tmp_path / "b.jsonl", drop=["unreadable"], inspector=inspector)
    assert [r.answer for r in read_records([tmp_path / "b.jsonl"]).records] == ["No."]

    clean([path], tmp_path / "c.jsonl", fix=["system"], inspector=inspector)
    first = json.loads((tmp_path / "c.jsonl").read_text().splitlines()[0])
    assert first == {"instruction": "Be kind.\n\nq?", "input": "", "output": "Yes."}


def test_imbalance_by_source_and_by_length(tmp_path: Path) -> None:
    many = written(tmp_path / "many.jsonl", [pair(seed) for seed in range(99)])
    few = written(tmp_path / "few.jsonl", [{"prompt": "x", "completion": sentence(1, 2000)}])
    report = check([many, few])
    assert counts(report)["imbalance"] == 100
    summary = next(f.summary for f in report.findings if f.kind == "imbalance")
    assert "99% of the records come from" in summary
    assert "the longest 1 % of the records hold" in summary


@pytest.mark.parametrize(("purpose", "few"), [("task", False), ("domain", True)])
def test_the_amount_must_fit_the_purpose(tmp_path: Path, purpose: str, few: bool) -> None:
    path = written(tmp_path / "a.jsonl", [pair(seed) for seed in range(120)])
    assert ("too_few" in counts(check([path], purpose=purpose))) is few


def test_an_unknown_purpose_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of task, domain, language"):
        check([tmp_path], purpose="fun")


def test_a_file_without_a_readable_record_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"x": 1}])
    with pytest.raises(DataError, match=r"no readable record; the first: .*fields of no known"):
        check([path])


def test_every_kind_has_words_and_the_report_is_json(tmp_path: Path) -> None:
    records = [pair(1), pair(1), {"prompt": "<script>", "completion": "<p>x</p>"}]
    report = check([written(tmp_path / "<a>.jsonl", records)], purpose="task")
    assert json.loads(json.dumps(report.as_json()))["records"] == 3
    pages = {language: page(report, language=language) for language in LANGUAGES}
    assert "完全な重複" in pages["ja"]
    assert "word for word" in pages["en"]
    assert "<a>.jsonl" not in pages["en"]
    for kind in KINDS:
        from llamune.words import catalogue

        assert catalogue("data", "ja")(f"kind_{kind}")


def test_jaccard() -> None:
    assert jaccard("abcdefgh", "abcdefgh") == 1
    assert jaccard("abcdefgh", "zyxwvuts") == 0
    assert jaccard("abcdef", "abcdeg") == 1 / 3
    assert jaccard("", "") == 1


def planted(n_records: int, n_copies: int) -> tuple[list[dict[str, Any]], set[int]]:
    """Return records with near copies hidden among them, and the numbers of the copies."""
    rng = random.Random(1)
    records = [pair(seed) for seed in range(n_records)]
    numbers = set()
    for seed in rng.sample(range(n_records), n_copies):
        copy = dict(records[seed])
        copy["prompt"] = copy["prompt"].replace(" ", "  ", 1).replace(".", ", then.")
        records.append(copy)
        numbers.add(len(records))
    return records, numbers


def test_near_copies_are_all_found_and_nothing_else(tmp_path: Path) -> None:
    records, numbers = planted(500, 30)
    path = written(tmp_path / "a.jsonl", records)
    out = tmp_path / "b.jsonl"
    result = clean([path], out, drop=["near_duplicate"])
    log = [json.loads(line) for line in (tmp_path / "b.jsonl.log.jsonl").read_text().splitlines()]
    assert {entry["record"] for entry in log} == numbers
    assert result.n_written == 500


def test_groups_hold_what_is_alike() -> None:
    fields, _ = planted(200, 20)
    from llamune.data.records import Source
    from llamune.data.shapes import parse_record

    records: list[Record] = [
        parse_record(value, Source(path="a", number=place)) for place, value in enumerate(fields)
    ]
    groups = groups_of(records)
    assert len(set(groups)) == 200


def test_cleaning_fixes_drops_and_logs(tmp_path: Path) -> None:
    records = [
        pair(1),
        pair(1),
        {"prompt": "a \n\n\n\n\nb\u200b", "completion": "cafÃ©  "},
        {"prompt": sentence(5), "completion": ""},
        {"oops": 1},
        {"prompt": sentence(6), "completion": "call 090-1234-5678.</s>"},
    ]
    path = written(tmp_path / "a.jsonl", records)
    out = tmp_path / "b.jsonl"
    result = clean(
        [path],
        out,
        drop=["duplicate", "empty_answer", "unreadable"],
        fix=["unicode", "whitespace", "control_character", "control_token", "personal_data"],
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [
        pair(1),
        {"prompt": "a\n\n\nb", "completion": "café"},
        {"prompt": sentence(6), "completion": "call [phone]."},
    ]
    assert (result.n_read, result.n_written) == (6, 3)
    assert dict(result.dropped) == {"duplicate": 1, "empty_answer": 1, "unreadable": 1}
    log = [json.loads(line) for line in (tmp_path / "b.jsonl.log.jsonl").read_text().splitlines()]
    assert [(entry["record"], entry["action"]) for entry in log] == [
        (2, "dropped"),
        (3, "changed"),
        (4, "dropped"),
        (5, "dropped"),
        (6, "changed"),
    ]
    assert log[0]["reason"] == f"duplicate of {path}:1"


def test_unreadable_records_stop_a_cleaning_unless_dropped(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [pair(1), {"oops": 1}])
    with pytest.raises(DataError, match="fields of no known format"):
        clean([path], tmp_path / "b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()


@pytest.mark.parametrize("options", [{"drop": ["nonsense"]}, {"fix": ["nonsense"]}])
def test_unknown_kinds_are_refused(tmp_path: Path, options: dict[str, list[str]]) -> None:
    with pytest.raises(DataError, match="'nonsense'"):
        clean([tmp_path], tmp_path / "b.jsonl", **options)


def test_too_long_records_can_be_dropped(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [pair(1), {"prompt": "q", "completion": "a"}])
    inspector = Inspector(tokenizer=ByteTokens(), template=CHATML, limit=60)
    clean([path], tmp_path / "b.jsonl", drop=["too_long"], inspector=inspector)
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 1


def test_the_fix_that_a_check_names_takes_the_finding_away(tmp_path: Path) -> None:
    records = [
        *[pair(seed) for seed in range(30)],
        pair(3),
        {"prompt": sentence(40), "completion": ""},
        {"prompt": sentence(41), "completion": "<p>x</p>\u200b cafÃ©"},
        {"prompt": sentence(42), "completion": "I can't help with that. a.b@mail.org"},
        {"prompt": sentence(43), "completion": "x</s>"},
    ]
    path = written(tmp_path / "a.jsonl", records)
    report = check([path])
    assert len(report.findings) == 8
    words = report.fix.split()
    options = {
        word: words[place + 1].split(",") for place, word in enumerate(words) if word[0] == "-"
    }
    clean([path], tmp_path / "b.jsonl", drop=options["--drop"], fix=options["--fix"])
    assert check([tmp_path / "b.jsonl"]).findings == ()


def test_every_named_kind_can_be_dropped() -> None:
    assert set(DROPPABLE) == set(KINDS) - {"imbalance", "too_few"}


ALPACA = {
    "instruction": "Sort:",
    "input": "a ticket",
    "output": "billing",
    "system": "Be brief.",
    "history": [["q", "a"]],
}
TOOLS = {
    "messages": [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": '{"x": "京都"}'}}
            ],
        },
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "two"},
    ],
    "tools": [{"type": "function", "function": {"name": "f"}}],
}
ROUND_TRIPS: list[tuple[str, dict[str, Any], str]] = [
    ("alpaca", ALPACA, "openai"),
    ("alpaca", ALPACA, "sharegpt"),
    ("openai", TOOLS, "sharegpt"),
    ("openai", TOOLS, "completion"),
    ("completion", {"prompt": "q", "completion": "a", "label": True}, "sharegpt"),
    ("preference", {"prompt": "q", "chosen": "good", "rejected": "bad"}, "preference"),
    ("text", {"text": "prose", "url": "x"}, "text"),
]


@pytest.mark.parametrize(("home_format", "fields", "other"), ROUND_TRIPS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_conversions_are_free_of_loss_both_ways(
    tmp_path: Path, home_format: str, fields: dict[str, Any], other: str, suffix: str
) -> None:
    first = written(tmp_path / "first.jsonl", [fields])
    there, back = tmp_path / f"there{suffix}", tmp_path / f"back{suffix}"
    convert([first], there, to=other)
    convert([there], back, to=home_format)
    (before,), (after,) = (read_records([path]).records for path in (first, back))
    assert after.messages == before.messages
    assert (after.text, after.rejected, after.label) == (before.text, before.rejected, before.label)
    assert after.tools == before.tools


def test_tables_hold_lists_as_json(tmp_path: Path) -> None:
    first = written(tmp_path / "first.jsonl", [ALPACA])
    for name in ("there.csv", "there.tsv"):
        convert([first], tmp_path / name, to="openai")
        (record,) = read_records([tmp_path / name]).records
        assert record.messages == read_records([first]).records[0].messages


def test_alpaca_keeps_its_input_apart(tmp_path: Path) -> None:
    first = written(tmp_path / "first.jsonl", [ALPACA])
    convert([first], tmp_path / "there.jsonl", to="alpaca")
    assert json.loads((tmp_path / "there.jsonl").read_text()) == ALPACA


@pytest.mark.parametrize(
    ("fields", "to", "reason"),
    [
        (TOOLS, "alpaca", "it has tools"),
        ({"text": "prose"}, "openai", "it is no conversation"),
        (ALPACA, "text", "it is a conversation"),
        (ALPACA, "preference", "no rejected answer"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "openai", "it is no conversation"),
        (ALPACA, "nonsense", "one of alpaca, openai"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_record(
    tmp_path: Path, fields: dict[str, Any], to: str, reason: str
) -> None:
    path = written(tmp_path / "a.jsonl", [fields])
    with pytest.raises(DataError, match=reason):
        convert([path], tmp_path / "b.jsonl", to=to)
    assert not (tmp_path / "b.jsonl").exists()


def test_preference_pairs_give_their_better_side_when_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "good", "rejected": "bad"}])
    convert([path], tmp_path / "b.jsonl", to="openai", chosen=True)
    (record,) = read_records([tmp_path / "b.jsonl"]).records
    assert (record.answer, record.rejected) == ("good", ())


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [ALPACA])
    with pytest.raises(DataError, match="does not say what to write"):
        convert([path], tmp_path / "b.docx", to="openai")


def test_splitting_files_never_parts_what_is_alike(tmp_path: Path) -> None:
    fields, _ = planted(200, 40)
    records = read_records([written(tmp_path / "a.jsonl", fields)]).records
    sizes = split_files(records, tmp_path / "parts", validation=0.1, test=0.1, seed=2)
    assert sum(sizes.values()) == 240
    train, valid, test = (tmp_path / "parts" / f"{x}.jsonl" for x in ("train", "valid", "test"))
    assert check([train], held_out=[valid, test]).findings[-1].kind != "overlap"
    assert "overlap" not in counts(check([train], held_out=[valid, test]))
    assert "overlap" not in counts(check([valid], held_out=[test]))


def test_formats_and_readers_know_the_same_names() -> None:
    from llamune.data.shapes import SHAPES

    assert set(FORMATS) == set(SHAPES)
