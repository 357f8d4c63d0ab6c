"""Caption metrics against pycocoevalcap (the field's implementation) and against published values."""

import contextlib
import io
import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from components.evaluation.captions import caption_metrics, cider_scores, load_predictions, load_references
from components.evaluation.captions import tokenized_metrics as ours
from components.evaluation.ptb import tokenize

SHARED = Path(__file__).parents[3] / "shared" / "data"
TEXTS = [
    "A man's dog isn't here; don't, can't and cannot!",
    'The "quoted" (bracketed) [sign] says: buy 2 for $5.50, 10% off...',
    "Mr. and Mrs. Smith of the U.S. at 10:30 a.m. on St. James Ave.",
    "gonna wanna 'tis '90s rock'n'roll o'clock dogs' James's they're I'd've",
    "a black-and-white T-shirt -- 3-year-old and/or 1/2 of 1,000.5 -- well-known",
    "see http://www.example.com/a?b=c or mail me@foo.com, IMG_1234.JPG photo.jpg @user #tag",
    "it’s “curly” ‘quotes’ – and — dashes … ½ £3 café naïve",
    "<b>bold</b> &amp; AT&T, R&B; c++ etc. end. fig. 3, No. 5",
    "",
    "...",
]


def reference_scores(references: list[list[str]], candidates: list[str]) -> dict[str, float]:
    gts, res = dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
        rouge, _ = Rouge().compute_score(gts, res)
        cider, _ = Cider().compute_score(gts, res)
    return {f"BLEU-{n}": score for n, score in enumerate(bleu, 1)} | {"ROUGE-L": rouge, "CIDEr": cider}


def random_corpus(seed: int) -> tuple[list[list[str]], list[str]]:
    """Sentences over a small vocabulary, so that long n-grams do match; some empty, some very long."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(rng.choice([2, 5, 30]))]

    def sentence() -> str:
        length = rng.choice([0, 1, 2, 3, 8, 12, 40]) if rng.random() < 0.3 else rng.randint(4, 12)
        return " ".join(rng.choice(words) for _ in range(length))

    images = rng.choice([1, 2, 20])
    references = [[sentence() or "w0" for _ in range(rng.randint(1, 6))] for _ in range(images)]
    candidates = [rng.choice([sentence(), rng.choice(refs)]) for refs in references]
    return references, candidates


@pytest.mark.parametrize("seed", range(60))
def test_equal_to_pycocoevalcap_on_random_corpora(seed):
    references, candidates = random_corpus(seed)
    assert ours(references, candidates) == pytest.approx(reference_scores(references, candidates), abs=1e-6)


def test_cider_is_equal_image_by_image():
    references, candidates = random_corpus(5)
    _, expected = Cider().compute_score(dict(enumerate(references)), {i: [c] for i, c in enumerate(candidates)})
    assert cider_scores(references, candidates) == pytest.approx(list(expected), abs=1e-9)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="real captions (../shared/data) are not here")
def test_equal_to_pycocoevalcap_on_real_captions():
    """One of five human captions scored against the other four, 500 photos."""
    references = load_references(str(SHARED / "human" / "captions_val.json"))
    candidates = [tokenize(texts[0]) for texts in references.values()]
    truths = [[tokenize(text) for text in texts[1:]] for texts in references.values()]
    expected = reference_scores(truths, candidates)
    assert ours(truths, candidates) == pytest.approx(expected, abs=1e-6)
    assert caption_metrics(
        {key: texts[1:] for key, texts in references.items()}, {key: texts[0] for key, texts in references.items()}
    ) == pytest.approx(expected, abs=1e-6)
    assert 0.4 < expected["CIDEr"] < 1.5  # people agree with one another, but not word for word


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="published examples (../shared/data) are not here")
class TestPublishedValues:
    published = property(lambda self: json.loads((SHARED / "metrics" / "published_values.json").read_text()))

    def test_nlg_eval(self):
        """nlg-eval scores its example untokenised (split at spaces); its figures have six decimals."""
        lines = [
            (SHARED / "metrics" / f"nlgeval_example_{name}.txt").read_text().splitlines()
            for name in ("hyp", "ref1", "ref2")
        ]
        keep = [i for i, text in enumerate(lines[0]) if text]
        got = ours([[lines[1][i], lines[2][i]] for i in keep], [lines[0][i] for i in keep])
        names = {"Bleu_1": "BLEU-1", "Bleu_2": "BLEU-2", "Bleu_3": "BLEU-3", "Bleu_4": "BLEU-4"}
        for name, value in self.published["nlgeval_example"]["published"].items():
            if name not in ("METEOR", "SPICE"):
                key = {"ROUGE_L": "ROUGE-L"}.get(name, names.get(name, name))
                assert got[key] == pytest.approx(value, abs=1e-6), name

    def test_clipscore(self):
        """clipscore's example through the tokenizer; its figures have four decimals."""
        got = caption_metrics(
            load_references(str(SHARED / "metrics" / "clipscore_example_refs.json")),
            load_predictions(str(SHARED / "metrics" / "clipscore_example_good_captions.json")),
        )
        published = self.published["clipscore_example_good"]["published"]
        names = {"ROUGE": "ROUGE-L", "CIDER": "CIDEr"}
        for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE", "CIDER"):
            assert got[names.get(name, name)] == pytest.approx(published[name], abs=6e-5), name


@contextlib.contextmanager
def ptb_tokenizer() -> Iterator[object]:
    """pycocoevalcap's Java tokenizer; it writes beside its jar, so it runs on a private copy."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    with tempfile.TemporaryDirectory() as folder:
        jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
        (Path(folder) / jar.name).symlink_to(jar)

        def run(texts: list[str]) -> list[str]:
            path = Path(folder) / "texts.txt"
            path.write_text("\n".join(" ".join(text.split()) for text in texts), encoding="utf-8")
            command = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", jar.name]
            command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", path.name]
            done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
            lines = done.stdout.decode("utf-8").split("\n")[: len(texts)]
            # By its code: the list is of upper-case names, so the lower-cased -lrb- stays.
            return [" ".join(w for w in line.split() if w not in ptbtokenizer.PUNCTUATIONS) for line in lines]

        yield run


needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed; it is only compared with")


@needs_java
def test_tokens_equal_stanfords():
    with ptb_tokenizer() as run:
        assert [tokenize(text) for text in TEXTS] == run(TEXTS)


@needs_java
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="real captions (../shared/data) are not here")
def test_tokens_equal_stanfords_on_real_captions_and_nearly_so_on_web_texts():
    import pyarrow.parquet as pq

    human = [
        text
        for split in ("train", "val")
        for texts in load_references(str(SHARED / "human" / f"captions_{split}.json")).values()
        for text in texts
    ]
    tables = [pq.read_table(path) for path in sorted((SHARED / "web").glob("*.parquet"))]
    web = [text for table in tables for text in table["caption"].to_pylist()]
    with ptb_tokenizer() as run:
        assert [tokenize(text) for text in human] == run(human)
        wrong = [text for text, tokens in zip(web, run(web), strict=True) if tokenize(text).split() != tokens.split()]
    assert len(wrong) / len(web) < 0.004, wrong[:10]
