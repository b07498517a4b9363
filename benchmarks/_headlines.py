"""The figures that the README quotes, each from a committed result; nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks._measure import HERE

RESULTS = HERE / "results"
INSTRUCTION_SETS = {"avx2": "", "avx512_bf16": " (AVX512-BF16)"}

TITLES = {
    "en": ("on two cores, no GPU, AVX2 unless said", "Llamune", "beside it", "script"),
    "ja": ("2 コア、GPU なし、断りがなければ AVX2", "Llamune", "比べた相手", "スクリプト"),
}


@dataclass(frozen=True)
class Headline:
    """One line of the README's table; `peer` is empty where nothing is compared."""

    script: str
    english: str
    japanese: str
    ours: str
    peer: str

    def row(self, language: str) -> str:
        """Return it as a row of a table in Markdown."""
        name = self.japanese if language == "ja" else self.english
        link = f"[`{self.script}`](benchmarks/{self.script}.py)"
        return f"| {name} | {self.ours} | {self.peer} | {link} |"


def headlines(language: str) -> str:
    """Return the README's table in a language, "en" or "ja"."""
    rows = [headline.row(language) for headline in found()]
    return "\n".join([f"| {' | '.join(TITLES[language])} |", "|---|---|---|---|", *rows]) + "\n"


def found() -> Iterator[Headline]:
    """Yield a line for each comparison that has a committed result."""
    for script, lines in SCRIPTS.items():
        for name, suffix in INSTRUCTION_SETS.items():
            path = RESULTS / f"{script}-{name}.json"
            if not path.exists():
                continue
            for line in lines(json.loads(path.read_text(encoding="utf-8"))["figures"]):
                yield replace(
                    line, english=f"{line.english}{suffix}", japanese=f"{line.japanese}{suffix}"
                )


def open_file(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield how fast a file of 256k tokens of vocabulary opens."""
    results = figures["results"]["large-vocabulary"]
    ours, peer = results["open_ours"], results["open_gguf_py"]
    yield Headline(
        "open_file",
        "open a GGUF with 256k tokens of vocabulary",
        "語彙 256k の GGUF を開く",
        f"{ours['seconds']:.3f} s, {megabytes(ours['peak_bytes'])}",
        f"gguf-py {peer['seconds']:.1f} s, {megabytes(peer['peak_bytes'])}",
    )


def load(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield how soon a model is ready to train."""
    ours, peer = figures["ours"], figures["transformers"]
    yield Headline(
        "load",
        "load the starter model for training (private memory)",
        "starter を学習用に読み込む（固有メモリ）",
        f"{ours['seconds']:.2f} s, {megabytes(ours['private_bytes'])}",
        f"transformers {peer['seconds']:.1f} s, {megabytes(peer['private_bytes'])}",
    )


def tokenize(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield tokens a second."""
    result = figures["results"][0]
    rates = {
        name: f"{result[name]['tokens_per_second_best'] / 1e3:,.0f}k tokens/s"
        for name in ("llamune", "llama.cpp", "transformers")
    }
    yield Headline(
        "tokenize",
        "tokenize",
        "トークン化",
        rates["llamune"],
        f"llama.cpp {rates['llama.cpp']}, transformers {rates['transformers']}",
    )


def quantize(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield how fast a K-quant is written."""
    result = figures["results"]["q4_k"]
    ours, peer = result["ours"], result["libgguf"]
    yield Headline(
        "quantize",
        "quantize to Q4_K, file to file",
        "Q4_K への量子化（ファイルからファイルへ）",
        f"{ours['million_weights_per_second']:.0f} M weights/s",
        f"libgguf {peer['million_weights_per_second']:.0f} M weights/s",
    )


def train(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield the speed and memory of training beside each peer, at the most rows a step."""
    rows = max(ratio["rows"] for ratio in figures["ratios"])
    ours = next(
        one for one in figures["results"] if one["rows"] == rows and one["contestant"] == "llamune"
    )
    peers = [
        f"{ratio['against']}: {ratio['speed']:.2f} × its speed, {ratio['memory']:.2f} of its memory"
        for ratio in figures["ratios"]
        if ratio["rows"] == rows
    ]
    yield Headline(
        "train",
        f"train the starter model, LoRA, {rows} × {figures['length']} tokens a step",
        f"starter の LoRA 学習、1 ステップ {rows} × {figures['length']} トークン",
        f"{ours['tokens_per_second']:.0f} tokens/s",
        "; ".join(peers),
    )


def served_quality(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield what training on the served bytes is worth, at 4 bits and at 2."""
    losses = {(one["base"], one["trained_on"]): one["adapter"]["mean"] for one in figures["ways"]}
    for kind in ("q4_0", "q2_k"):
        yield Headline(
            "served_quality",
            f"held-out loss of an adapter on a {kind.upper()} base, served by llama.cpp",
            f"{kind.upper()} のベースに付けたアダプターの損失（llama.cpp で配信）",
            f"{losses[kind, 'packed']:.2f}, trained on that base",
            f"trained on 16 bits {losses[kind, '16-bit']:.2f}, on NF4 {losses[kind, 'nf4']:.2f}",
        )


def merge(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield how much of a tuning is left in one file of the base's own 4-bit types."""
    kept = {(one["base"], one["way"]): one["gain_kept"]["mean"] for one in figures["means"]}
    yield Headline(
        "merge",
        "share of a tuning's gain that is left in one Q4_K_M file, served by llama.cpp",
        "1 つの Q4_K_M ファイルに残る学習効果（llama.cpp で配信）",
        f"{100 * kept['q4_k_m', 'compensated']:.0f} %",
        f"rounded to nearest {100 * kept['q4_k_m', 'nearest']:.0f} %, "
        f"with an importance matrix {100 * kept['q4_k_m', 'importance']:.0f} %",
    )


def full(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield what a step on every weight of a 9B model holds."""
    nine, quality = figures["nine"], figures["quality"]
    yield Headline(
        "full",
        f"a full fine-tuning step of gemma2:9b's shapes, {nine['tokens']} tokens",
        f"gemma2:9b の形でのフル学習 1 ステップ、{nine['tokens']} トークン",
        f"{nine['peak_resident_bytes'] / 1e9:.1f} GB resident",
        "",
    )
    means = {row["way"]: row for row in quality["means"]}
    packed, dense = means["packed-Q8_0-factored"], means["dense-f32"]
    yield Headline(
        "full",
        f"full fine-tuning of the starter, held-out loss after {dense['steps']} steps",
        f"starter のフル学習、{dense['steps']} ステップ後の損失",
        *(
            f"{name}{way['loss_after']['mean']:.3f}, {way['peak_bytes']['mean'] / 1e9:.1f} GB"
            for name, way in (("", packed), ("dense AdamW ", dense))
        ),
    )


def serve(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield what our server costs over llama.cpp's own."""
    shares = [f"{100 * one['overhead']:.0f} %" for one in figures["load"].values()]
    clients = ", ".join(figures["load"])
    yield Headline(
        "serve",
        f"tokens a second lost against llama.cpp's own server at {clients} clients",
        f"llama.cpp 自身のサーバーに対する損失、{clients} クライアント",
        ", ".join(shares),
        "",
    )


def first_token(figures: Mapping[str, Any]) -> Iterator[Headline]:
    """Yield how long a person waits."""
    yield Headline(
        "first_token",
        "`llamune run` in a fresh process, to the first token",
        "新しいプロセスの `llamune run`、最初のトークンまで",
        f"{figures['median_seconds']:.1f} s",
        "",
    )


def megabytes(nbytes: float) -> str:
    """Return a size in MB."""
    return f"{nbytes / 1e6:,.0f} MB"


SCRIPTS = {
    work.__name__: work
    for work in (
        open_file,
        load,
        tokenize,
        quantize,
        train,
        served_quality,
        merge,
        full,
        serve,
        first_token,
    )
}
