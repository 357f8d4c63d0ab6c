import pytest
from pydantic import ValidationError

from components.model.config import BlipConfig, DecodingConfig, TextConfig, VisionConfig
from components.model.tokenizer import BlipTokenizer

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_token_ids_come_from_the_tokenizer():
    config = BlipConfig().for_tokenizer(BlipTokenizer.from_tokens([*BERT, "a", "dog"]))
    text = config.text
    assert (text.vocab_size, text.pad_id, text.cls_id, text.sep_id, text.dec_id, text.enc_id) == (9, 0, 2, 3, 7, 8)
    assert config.vision == BlipConfig().vision


@pytest.mark.parametrize(
    "make",
    [
        lambda: VisionConfig(image_size=100),
        lambda: VisionConfig(heads=5),
        lambda: TextConfig(heads=7),
        lambda: BlipConfig().with_vision(image_size=100),
        lambda: BlipConfig.model_validate({"widht": 3}),
        lambda: DecodingConfig(min_length=30, max_length=20),
        lambda: DecodingConfig(top_p=0),
    ],
)
def test_what_does_not_fit_is_refused(make):
    with pytest.raises(ValidationError):
        make()
