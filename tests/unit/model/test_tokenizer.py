import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizerFast

from components.common.errors import ConfigError, ModelError
from components.model.tokenizer import BlipTokenizer, pre_caption
from components.model.wordpiece import train_wordpieces

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["a small red circle above a blue square", "two dogs run on the beach", "the dog's ball, and a striped box"] * 3
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture(scope="module")
def tokenizer() -> BlipTokenizer:
    return BlipTokenizer.train(TEXTS, 90)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ('A "Big" Dog!! (on: the) *beach* #1; ~.', "a big dog on the beach 1"),
        ("semi-detached, isn't it?", "semi-detached, isn't it?"),
        ("  two\n\nlines \t here\n", "two lines here"),
        ("one two three four", "one two three"),
        ("", ""),
        ("...", ""),
    ],
)
def test_captions_are_cleaned_as_blip_does(text, cleaned):
    assert pre_caption(text, max_words=3 if text.startswith("one") else 30) == cleaned


def test_a_batch_is_padded_to_its_longest(tokenizer):
    ids, mask = tokenizer.encode(["two dogs", "a small red circle above a blue square"], 30)
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool and ids.shape == mask.shape
    assert mask.sum(1).max() == ids.shape[1]
    for row, seen in zip(ids, mask, strict=True):
        row = row[seen]
        assert row[0] == tokenizer.cls_id and row[-1] == tokenizer.sep_id
    assert (ids[~mask] == tokenizer.pad_id).all()


def test_length_and_width_are_kept(tokenizer):
    ids, mask = tokenizer.encode(TEXTS[:3], 6, pad_to=10)
    assert ids.shape == (3, 10)
    assert mask.sum(1).tolist() == [6, 6, 6]
    assert (ids[:, 5] == tokenizer.sep_id).all()
    assert tokenizer.encode([], 10).ids.shape[0] == 0
    for length, width in ((1, None), (10, 5)):
        with pytest.raises(ConfigError):
            tokenizer.encode(TEXTS, length, pad_to=width)


def test_texts_come_back(tokenizer):
    ids, mask = tokenizer.encode(TEXTS[:2], 40)
    assert [tokenizer.decode(row) for row in ids] == TEXTS[:2]
    assert tokenizer.decode_batch(ids.tolist()) == TEXTS[:2]
    assert tokenizer.prompt_ids("a small")[0] == tokenizer.dec_id
    assert tokenizer.decode(tokenizer.prompt_ids("a small ")) == "a small"


def test_a_special_token_in_a_text_is_text(tokenizer):
    ids, mask = tokenizer.encode(["dog [SEP] [DEC] ball [PAD]"], 60)
    inside = set(ids[mask][1:-1].tolist())
    assert not inside & {tokenizer.sep_id, tokenizer.dec_id, tokenizer.pad_id, tokenizer.cls_id}


def test_new_tokens_come_last_in_order(tokenizer):
    assert tokenizer.vocab_size <= 90
    assert (tokenizer.dec_id, tokenizer.enc_id) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)


def test_training_hangs_on_the_texts_alone(tokenizer):
    assert BlipTokenizer.train(reversed(TEXTS), 90).digest == tokenizer.digest
    assert BlipTokenizer.train([*TEXTS, "zebra zebra"], 90).digest != tokenizer.digest


def test_training_in_another_process_gives_the_same(tokenizer):
    code = (
        "import json, sys; from components.model.tokenizer import BlipTokenizer; "
        "print(BlipTokenizer.train(json.loads(sys.argv[1]), 90).digest)"
    )
    command = [sys.executable, "-c", code, json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert done.stdout.strip() == tokenizer.digest


def test_merges_are_the_most_frequent_ones():
    assert train_wordpieces({"abab": 5, "abc": 3, "b": 1}, 9) == [
        "##a",
        "##b",
        "##c",
        "a",
        "b",
        "ab",
        "##ab",
        "abab",
        "abc",
    ]
    assert "abc" not in train_wordpieces({"abab": 5, "abc": 1}, 9)
    assert train_wordpieces({"aaaa": 2}, 10) == ["##a", "a", "##aa", "##aaa", "aaaa"]


def test_a_vocabulary_too_small_for_its_characters_is_refused():
    with pytest.raises(ConfigError, match="characters alone need"):
        BlipTokenizer.train(TEXTS, 12)


def test_saved_files_load_here_and_in_transformers(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    loaded = BlipTokenizer.load(tmp_path)
    loaded.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert loaded.digest == tokenizer.digest
    for kind in (AutoTokenizer, BertTokenizerFast):
        other = kind.from_pretrained(tmp_path)
        assert len(other) == tokenizer.vocab_size
        assert other.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [tokenizer.dec_id, tokenizer.enc_id]
        assert (other.bos_token_id, other.pad_token_id) == (tokenizer.dec_id, tokenizer.pad_id)
        expected = other(TEXTS, padding=True, truncation=True, max_length=9, return_tensors="pt")
        ids, mask = tokenizer.encode(TEXTS, 9)
        assert torch.equal(expected["input_ids"], ids) and torch.equal(expected["attention_mask"].bool(), mask)
        assert other.decode(ids[0], skip_special_tokens=True) == tokenizer.decode(ids[0])


def test_a_folder_with_a_vocabulary_alone_will_do(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert BlipTokenizer.load(tmp_path).digest == tokenizer.digest


def test_official_folders_lack_blips_tokens(tmp_path):
    """Hugging Face's BLIP tokenizers are plain BERT's, with padding and truncation set in the file."""
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT, "a", "dog", "##s"]) + "\n")
    plain = BertTokenizerFast.from_pretrained(tmp_path)
    plain(["a", "a dog"], padding="max_length", truncation=True, max_length=8)
    plain.save_pretrained(tmp_path)
    loaded = BlipTokenizer.load(tmp_path)
    assert (loaded.vocab_size, loaded.dec_id, loaded.enc_id) == (10, 8, 9)
    assert loaded.encode(["a dogs"], 30).ids.tolist() == [[2, 5, 6, 7, 3]]


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match="vocab.txt"):
        BlipTokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\na\n")
    with pytest.raises(ModelError, match=r"lacks \[UNK\]"):
        BlipTokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT, "a", "a"]))
    with pytest.raises(ModelError, match="twice"):
        BlipTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        BlipTokenizer.load(tmp_path)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_berts_vocabulary_gives_blips_ids():
    path = SHARED / "bert-base-uncased-vocab.txt"
    tokenizer = BlipTokenizer.from_vocab_file(path)
    assert (tokenizer.vocab_size, tokenizer.dec_id, tokenizer.enc_id) == (30524, 30522, 30523)
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id) == (0, 101, 102)
    assert tokenizer.prompt_ids("a picture of ") == [30522, 1037, 3861, 1997]
    annotations = json.loads((SHARED / "human" / "captions_val.json").read_text())["annotations"]
    texts = [row["caption"] for row in annotations[:500]] + ["Ünïcode naïve 日本", "", "a!!b"]
    expected = BertTokenizerFast(vocab=str(path))(texts, padding=True, truncation=True, max_length=30)
    assert tokenizer.encode(texts, 30).ids.tolist() == expected["input_ids"]
