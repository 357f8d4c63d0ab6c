"""WordPiece, lower-cased, with BLIP's two tokens [DEC] and [ENC] (docs/facts.md 3).

Real configs use the vocabulary of `bert-base-uncased`; the sample's is trained on its own corpus. Token ids are
`[B, T]`, B texts of T tokens, `[CLS] … [SEP]` with padding on the right. What the first token becomes is the
model's business.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from components.common.errors import ConfigError, ModelError
from components.common.seeding import digest_of
from components.model.wordpiece import train_wordpieces

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
DEC, ENC = "[DEC]", "[ENC]"
BERT_TOKENS = (PAD, UNK, CLS, SEP, MASK)
BLIP_TOKENS = (DEC, ENC)
"""In the order they are added, which official checkpoints depend on: ids 30522 and 30523 after BERT's vocabulary."""

MAX_LENGTH = 512
TOKENIZER_FILE, VOCABULARY_FILE = "tokenizer.json", "vocab.txt"

_DROPPED = re.compile(r"[.!\"()*#:;~]")
_SPACES = re.compile(r"\s{2,}")


def pre_caption(text: str, max_words: int = 30) -> str:
    """A caption as BLIP cleans it: lower-cased, `. ! " ( ) * # : ; ~` to spaces, cut to `max_words` words."""
    cleaned = _SPACES.sub(" ", _DROPPED.sub(" ", text.lower())).strip()
    return " ".join(cleaned.split(" ")[:max_words])


def pre_question(text: str, max_words: int = 50) -> str:
    """A question as BLIP cleans it: as `pre_caption`, but the same characters are deleted, and more words stay."""
    cleaned = _SPACES.sub(" ", _DROPPED.sub("", text.lower())).strip()
    return " ".join(cleaned.split(" ")[:max_words])


class TokenBatch(NamedTuple):
    """Token ids int64 `[B, T]`, and bool `[B, T]`, False on padding."""

    ids: Tensor
    mask: Tensor


class BlipTokenizer:
    """Texts to token ids and back.

    A special token spelled out in a text ("[SEP]") is text, so that no caption can end itself.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take a WordPiece tokenizer of the tokenizers library; [DEC] and [ENC] are added if it lacks them.

        Raises:
            ModelError: it lacks one of BERT's tokens.
        """
        missing = [token for token in BERT_TOKENS if tokenizer.token_to_id(token) is None]
        if missing:
            raise ModelError(f"the vocabulary lacks {', '.join(missing)}: use one made for BERT, one token per line")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in BLIP_TOKENS])
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = map(self._id, (PAD, UNK, CLS, SEP))
        self.dec_id, self.enc_id = map(self._id, BLIP_TOKENS)

    @classmethod
    def load(cls, folder: Path) -> "BlipTokenizer":
        """Read `tokenizer.json`, or else `vocab.txt`, of a model folder: ours or an official one.

        Raises:
            ModelError: the folder has neither, or the file is not a WordPiece tokenizer.
        """
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            return cls.from_vocab_file(Path(folder) / VOCABULARY_FILE)
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise ModelError(f"{path}: not a tokenizer file: {error}; copy it again from its source") from error
        if not isinstance(tokenizer.model, models.WordPiece):
            raise ModelError(f"{path}: BLIP's tokenizer is WordPiece, not {type(tokenizer.model).__name__}")
        return cls(tokenizer)

    @classmethod
    def from_vocab_file(cls, path: Path) -> "BlipTokenizer":
        """Read a BERT vocabulary, one token per line (`bert-base-uncased`'s `vocab.txt`).

        Raises:
            ModelError: there is no such file, a token is there twice, or one of BERT's is missing.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{path}: no readable vocabulary: {error}; a model folder holds {TOKENIZER_FILE} or {VOCABULARY_FILE}"
            ) from error
        if len(set(lines)) != len(lines):
            raise ModelError(f"{path}: a token is listed twice; ids would be wrong, so copy it again from its source")
        return cls.from_tokens(lines)

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> "BlipTokenizer":
        """Make a tokenizer of WordPiece tokens; a token's position is its id."""
        vocabulary = {token: index for index, token in enumerate(tokens)}
        missing = [token for token in BERT_TOKENS if token not in vocabulary]
        if missing:
            raise ModelError(f"the vocabulary lacks {', '.join(missing)}: use one made for BERT, one token per line")
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNK))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.post_processor = processors.BertProcessing((SEP, vocabulary[SEP]), (CLS, vocabulary[CLS]))
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in BERT_TOKENS])
        return cls(tokenizer)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, min_count: int = 2) -> "BlipTokenizer":
        """Learn a vocabulary of at most `vocab_size` tokens (all special ones counted) from texts.

        The same texts in any order give the same vocabulary.

        Raises:
            ConfigError: `vocab_size` is too small for the characters of the texts.
        """
        normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        counts: dict[str, int] = {}
        for text in texts:
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
                counts[word] = counts.get(word, 0) + 1
        room = vocab_size - len(BERT_TOKENS) - len(BLIP_TOKENS)
        pieces = train_wordpieces(counts, room, min_count=min_count)
        if len(pieces) > room:
            raise ConfigError(
                f"vocab_size {vocab_size} is too small for these texts: their characters alone need "
                f"{len(pieces) + len(BERT_TOKENS) + len(BLIP_TOKENS)}"
            )
        return cls.from_tokens([*BERT_TOKENS, *pieces])

    def encode(self, texts: Sequence[str], max_length: int, *, pad_to: int | None = None) -> TokenBatch:
        """Texts to `[CLS] … [SEP]`.

        Args:
            texts: B texts.
            max_length: tokens at most, both ends counted; the rest of a longer text is cut off.
            pad_to: width T of the result; by default the longest text's.
        """
        if max_length < 2 or (pad_to is not None and pad_to < max_length):
            raise ConfigError(f"max_length {max_length} must be at least 2, and at most pad_to ({pad_to})")
        room = max_length - 2
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [[self.cls_id, *encoding.ids[:room], self.sep_id] for encoding in encodings]
        width = pad_to if pad_to is not None else max(map(len, rows), default=2)
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        mask = np.arange(width) < lengths[:, None]
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        if rows:
            ids[mask] = np.concatenate(rows)
        return TokenBatch(torch.from_numpy(ids), torch.from_numpy(mask))

    def prompt_ids(self, prompt: str) -> list[int]:
        """What the decoder is given to start with: [DEC] and the prompt's tokens ("a picture of ": 4 in all)."""
        return [self.dec_id, *self._tokenizer.encode(prompt, add_special_tokens=False).ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids to text, without special tokens."""
        return str(self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True))

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Many texts at once."""
        return list(self._tokenizer.decode_batch([list(row) for row in rows], skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Write the files that transformers and `load` read, the same bytes for the same tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {
            "pad_token": PAD,
            "unk_token": UNK,
            "cls_token": CLS,
            "sep_token": SEP,
            "mask_token": MASK,
            "bos_token": DEC,
            "additional_special_tokens": [ENC],
        }
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_LENGTH}
        _write(folder / TOKENIZER_FILE, json.loads(self._tokenizer.to_str()))
        _write(folder / "tokenizer_config.json", {**special, **settings})
        _write(folder / "special_tokens_map.json", special)
        (folder / VOCABULARY_FILE).write_text("".join(f"{token}\n" for token in self._tokens()), encoding="utf-8")

    @property
    def digest(self) -> str:
        """sha256 hex over all that decides what ids a text gets: the vocabulary, and how words are made."""
        parts = json.loads(self._tokenizer.to_str())
        return digest_of([self._tokens(), parts["normalizer"], parts["pre_tokenizer"]])

    def _tokens(self) -> list[str]:
        """All tokens; a token's position is its id."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return sorted(vocabulary, key=vocabulary.__getitem__)

    def _id(self, token: str) -> int:
        index: int | None = self._tokenizer.token_to_id(token)
        if index is None:
            raise ModelError(f"the vocabulary lacks {token}")
        return index


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
