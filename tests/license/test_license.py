"""The terms are held against the fact sheet's table, and the known traps are not fallen into."""

from __future__ import annotations

import pytest

from llamune.errors import LlamuneError
from llamune.license import (
    ACTS,
    DUTY_KINDS,
    SHARING,
    all_terms,
    derive,
    describe_duty,
    licences_of,
    obligations,
    of_text,
    summary_lines,
    terms,
)
from llamune.license.record import read_terms
from llamune.words import LANGUAGES, catalogue

# one row a licence that was read in its own text: use, modify, share merged, share adapter,
# sell merged, sell adapter, serve, train on outputs (y allowed, c conditions, n no, ? silent)
READ_IN_TEXT = {
    "Apache-2.0": "yyccccyy",
    "MIT": "yyccccyy",
    "CC-BY-4.0": "yyccccy?",
    "CC0-1.0": "yyyyyyyy",
    "LicenseRef-Gemma": "cccccccc",
    "LicenseRef-Llama2": "cccccccn",
    "LicenseRef-Llama3": "cccccccn",
    "LicenseRef-Llama3.1": "cccccccc",
    "LicenseRef-Llama3.2": "cccccccc",
    "LicenseRef-Llama3.3": "cccccccc",
    "LicenseRef-Llama4": "cccccccc",
}
# what is reported of the others: said, and never relied on
REPORTED = {
    "LicenseRef-Tongyi-Qianwen": "cccccccn",
    "LicenseRef-Qwen": "cccccccc",
    "LicenseRef-Qwen-Research": "ccccnnnc",
    "LicenseRef-DeepSeek-1.0": "cccccccy",
    "LicenseRef-MRL-0.1": "ccccnnnn",
    "LicenseRef-MNPL-0.1": "ccccnnnn",
    "LicenseRef-NVIDIA-Open-Model": "ycccccyy",
    "LicenseRef-OpenRAIL-M": "cccccccy",
    "CC-BY-NC-4.0": "ccccnnn?",
    "LicenseRef-Falcon-2": "cccccccy",
    "LicenseRef-LFM-1.0": "ccccccc?",
    "LicenseRef-Stability-Community": "ccccccc?",
    "LicenseRef-Kimi": "yycccccy",
    "LicenseRef-PLaMo-Community": "ccccccc?",
    "LicenseRef-EXAONE-NC": "ccccnnnn",
    # data and outputs
    "CC-BY-NC-SA-4.0": "ccccnnn?",
    "CC-BY-SA-3.0": "yyccccy?",
    "CC-BY-SA-4.0": "yyccccy?",
    "ODC-By-1.0": "yyccccy?",
    "LicenseRef-Anthropic-Outputs": "y??????n",
    "LicenseRef-Google-API-Outputs": "y??????n",
    "LicenseRef-OpenAI-Outputs": "y??????n",
}
LETTERS = {"y": "allowed", "c": "conditions", "n": "no", "?": "not confirmed"}


def answers(*keys: str, **more: object) -> dict[str, str]:
    found = licences_of({}, given=keys, **more)
    return {act: verdict.answer for act, verdict in derive(found).verdicts.items()}


@pytest.mark.parametrize("identifier", READ_IN_TEXT)
def test_each_act_is_answered_as_the_text_says(identifier: str) -> None:
    expected = [LETTERS[letter] for letter in READ_IN_TEXT[identifier]]
    assert list(answers(identifier).values()) == expected
    assert all(ruling.clause for ruling in terms(identifier).rulings.values())


@pytest.mark.parametrize("identifier", REPORTED)
def test_what_is_only_reported_is_said_and_answered_not_confirmed(identifier: str) -> None:
    expected = [LETTERS[letter] for letter in REPORTED[identifier]]
    assert [ruling.answer for ruling in terms(identifier).rulings.values()] == expected
    assert set(answers(identifier).values()) == {"not confirmed"}


def test_every_licence_stands_in_a_table() -> None:
    assert set(all_terms()) == set(READ_IN_TEXT) | set(REPORTED)


def test_only_texts_that_were_read_are_ever_answered_with_yes() -> None:
    for record in all_terms().values():
        assert record.confirmed == (record.id in READ_IN_TEXT)
        if not record.confirmed:
            assert set(answers(record.id).values()) == {"not confirmed"}


def test_every_record_has_sentences_for_its_duties_in_every_language() -> None:
    for language in LANGUAGES:
        words = catalogue("license", language)
        for record in all_terms().values():
            for duty in record.duties:
                sentence = describe_duty(duty, words)
                assert all(value in sentence for value in duty.fields.values())
        assert all(words.texts[f"duty-{kind}"] for kind in DUTY_KINDS)
        assert all(words.texts[f"act-{act}"] for act in ACTS)


def test_keys_are_lower_case_and_belong_to_one_licence_each() -> None:
    keys = [key for record in all_terms().values() for key in (*record.keys, record.id.lower())]
    assert all(key == key.lower() for key in keys)
    shared = {key for key in keys if keys.count(key) > 1}
    assert shared <= {record.id.lower() for record in all_terms().values()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tag": "X"}, "tag"),
        ({"acts": {}}, "[acts]"),
        ({"surprise": 1}, "surprise"),
        ({"duties": [{"kind": "notice-line", "clause": "1"}]}, "notice-line"),
        ({"duties": [{"kind": "licence-text", "clause": "1", "acts": ["fly"]}]}, "unknown act"),
    ],
)
def test_a_wrong_record_is_refused_by_name(change: dict[str, object], said: str) -> None:
    good = {
        "id": "X",
        "name": "X",
        "version": "1",
        "source": "",
        "checked": "",
        "tag": "T",
        "keys": [],
        "marks": [],
        "acts": {act: {"answer": "no", "clause": "1"} for act in ACTS},
    }
    read_terms(good, where="x.toml")
    with pytest.raises(LlamuneError, match=r"x\.toml") as caught:
        read_terms(good | change, where="x.toml")
    assert said in caught.value.message


# -- the known traps ------------------------------------------------------------------------


def limits(identifier: str) -> list[str]:
    return [duty.fields["limit"] for duty in terms(identifier).duties if "limit" in duty.fields]


def test_the_700_million_clause_is_llamas_and_not_gemmas() -> None:
    for identifier in READ_IN_TEXT:
        is_llama = identifier.startswith("LicenseRef-Llama")
        assert any("700 million" in limit for limit in limits(identifier)) == is_llama


def test_llama_derivatives_carry_the_name_prefix_and_the_built_with_line() -> None:
    for version, prefix, line in [
        ("Llama3", "Llama 3", "Built with Meta Llama 3"),
        ("Llama3.1", "Llama", "Built with Llama"),
        ("Llama4", "Llama", "Built with Llama"),
    ]:
        fields = [duty.fields for duty in terms(f"LicenseRef-{version}").duties]
        assert {"prefix": prefix} in fields
        assert {"line": line} in fields
    assert all(duty.kind != "name-prefix" for duty in terms("LicenseRef-Llama2").duties)


def test_a_distill_carries_its_makers_and_its_bases_licence() -> None:
    metadata = {"general.license": "mit", "general.name": "DeepSeek R1 Distill Llama 8B"}
    found = licences_of(metadata)
    assert [item.label for item in found] == ["MIT", "LicenseRef-Llama3.1"]
    assert found[1].only_hinted
    assert "problem-hint" in [key for key, _ in derive(found).problems]
    larger = licences_of({"general.license": "mit", "general.name": "R1-Distill-Llama-70B"})
    assert [item.label for item in larger] == ["MIT", "LicenseRef-Llama3.3"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2.5:3b", ["LicenseRef-Qwen-Research"]),
        ("qwen2.5:72b", ["LicenseRef-Qwen"]),
        ("qwen2.5:14b", []),
        ("gemma2:9b", ["LicenseRef-Gemma"]),
        ("gemma4:4b", []),
        ("llama3.2:3b", ["LicenseRef-Llama3.2"]),
        ("llama3:8b", ["LicenseRef-Llama3"]),
        ("smollm2:135m", []),
    ],
)
def test_a_name_is_a_hint_and_says_so(name: str, expected: list[str]) -> None:
    found = licences_of({}, names=[name])
    assert [item.label for item in found] == expected
    assert all(item.only_hinted for item in found)


# -- recognition -----------------------------------------------------------------------------

APACHE = (
    "Apache License\n Version 2.0\nTERMS AND  CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION"
)
LLAMA = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024"
POLICY = "Llama 3.1 Acceptable Use Policy\nMeta is committed to promoting safe and fair use"


def test_a_text_is_recognised_by_its_content() -> None:
    assert [record.id for record in of_text(APACHE)] == ["Apache-2.0"]
    assert [record.id for record in of_text(LLAMA)] == ["LicenseRef-Llama3.1"]
    assert [record.id for record in of_text("META LLAMA 3 COMMUNITY LICENSE AGREEMENT")] == [
        "LicenseRef-Llama3"
    ]
    first = "Tongyi Qianwen LICENSE AGREEMENT … Alibaba Cloud"
    assert [record.id for record in of_text(first)] == ["LicenseRef-Tongyi-Qianwen"]
    assert of_text("All rights reserved.") == ()


def test_a_use_policy_layer_is_no_licence_of_its_own() -> None:
    assert [item.label for item in licences_of({}, [LLAMA, POLICY])] == ["LicenseRef-Llama3.1"]


def test_key_and_text_that_disagree_are_both_applied() -> None:
    derivative = derive(licences_of({"general.license": "apache-2.0"}, [LLAMA]))
    assert {item.label for item in derivative.found} == {"Apache-2.0", "LicenseRef-Llama3.1"}
    assert "problem-disagree" in [key for key, _ in derivative.problems]
    assert derivative.verdicts["use"].answer == "conditions"


@pytest.mark.parametrize("metadata", [{}, {"general.license": "other"}, {"general.license": "x-y"}])
def test_nothing_known_is_never_permitted(metadata: dict[str, str]) -> None:
    derivative = derive(licences_of(metadata))
    assert not any(verdict.permitted for verdict in derivative.verdicts.values())
    assert derivative.problems


@pytest.mark.parametrize("value", [7, None, b"mit", ["a", 3], {"x": 1}, True])
def test_a_licence_key_of_any_kind_is_survived(value: object) -> None:
    licences_of(
        {"general.license": value, "general.base_model.count": value, "general.name": value}
    )


# -- inheritance -----------------------------------------------------------------------------


def test_the_strictest_answer_counts_and_duties_add_up() -> None:
    assert answers("mit", "llama3")["train-on-outputs"] == "no"
    both = derive(licences_of({}, given=["mit", "apache-2.0"]))
    assert {item.licence for item in both.owed} == {"MIT", "Apache-2.0"}


def test_share_alike_beside_other_terms_is_a_conflict_but_data_only_a_remark() -> None:
    weights = derive(licences_of({"general.license": "gemma"}, given=["cc-by-sa-4.0"]))
    assert "problem-conflict" in [key for key, _ in weights.problems]
    assert not weights.verdicts["share-merged"].permitted
    data = derive(licences_of({"general.license": "apache-2.0"}, data=["cc-by-sa-4.0"]))
    kinds = [key for key, _ in data.problems]
    assert "problem-data-alike" in kinds
    assert "problem-conflict" not in kinds


def test_a_report_names_licence_clause_and_duty_in_both_languages() -> None:
    derivative = derive(licences_of({"general.license": "apache-2.0"}))
    for language, word in [("en", "Pass on a copy"), ("ja", "写し")]:
        text = "\n".join(summary_lines(derivative, language=language))
        assert word in text
        assert "Apache-2.0 4(a)" in text
    assert len(obligations(derivative, acts=SHARING, language="en")) == 5
    assert obligations(derivative, acts=["use"], language="en") == []


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    assert terms("apache-2.0").id == "Apache-2.0"
    with pytest.raises(LlamuneError, match="no-such") as caught:
        terms("no-such")
    assert "Apache-2.0" in str(caught.value.hint)
