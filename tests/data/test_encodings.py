"""Japanese encodings are recognised by the bytes alone, and Western text is not taken for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamune.data import read_records
from tests.data.fakes import written

EXAMPLES = Path(__file__).parents[2] / "examples"
JAPANESE = "instruction,output\n荷物が届きません。,配送\nログインできない,アカウント\n"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("cp932", "cp932"),
        ("euc_jp", "euc_jp"),
        ("iso2022_jp", "iso2022_jp"),
        ("utf-16", "utf-16"),
    ],
)
def test_japanese_encodings_are_recognised_and_said(
    tmp_path: Path, encoding: str, said: str
) -> None:
    read = read_records([written(tmp_path, JAPANESE.encode(encoding))])
    assert read.encoding == said
    assert read.records[0].answer == "配送"


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "iso2022_jp"])
def test_a_single_short_line_is_enough_to_tell(tmp_path: Path, encoding: str) -> None:
    lines = (EXAMPLES / "keigo.jsonl").read_text(encoding="utf-8").splitlines()
    wrong = [
        line
        for line in lines
        if read_records([written(tmp_path, line.encode(encoding))]).encoding != encoding
    ]
    assert wrong == []


@pytest.mark.parametrize("text", ["café naïve", "costs £5", "Müller, Straße"])
def test_western_text_is_not_taken_for_japanese(tmp_path: Path, text: str) -> None:
    raw = json.dumps({"prompt": text, "completion": text}, ensure_ascii=False).encode("cp1252")
    read = read_records([written(tmp_path, raw)])
    assert (read.encoding, read.records[0].answer) == ("cp1252", text)


def test_a_few_broken_bytes_are_problems_not_another_encoding(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "質問です", "completion": "答え"}, ensure_ascii=False)] * 200
    raw = "\n".join(lines).encode().replace("答え".encode(), b"\xe7\xad", 1)
    read = read_records([written(tmp_path, raw)])
    assert (len(read.records), read.encoding) == (199, "utf-8")
    assert read.problems[0].reason.startswith("byte 0xE7 does not fit")
