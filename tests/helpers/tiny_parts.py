"""What tiny random models are made of: a tokenizer of whole words, a chat template, sizes, weights that tell apart."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = """
    a an the one two red blue green dog cat ball house tree man woman street on under with of in is are picture
    image describe this what does photo small big sits stands runs left right sky grass water black white near
    sentence short please user assistant numbered 0 1 2 3 4 5 6 7 8 9 10 11 12
""".split()  # noqa: SIM905 - as lines of words it can be read
SIGNS = [".", ",", ":", "?", "!"]
CHAT = (
    "{% for message in messages %}{{ message['role'] + ' : ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}"
    "{{ ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


def words_tokenizer(*special: str, wrap: str = "", **named: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: `<pad> <s> </s> <unk>` first, then `special`; `wrap` as the template `$A </s>`."""
    head = ["<pad>", "<s>", "</s>", "<unk>", *special]
    vocabulary = {word: at for at, word in enumerate([*head, *WORDS, *SIGNS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    if wrap:
        inner.post_processor = processors.TemplateProcessing(
            single=wrap, special_tokens=[(name, vocabulary[name]) for name in head if name in wrap]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
        model_max_length=77,
        **named,
    )


def scattered(model: torch.nn.Module, seed: int, factor: float = 8.0) -> Any:
    """The model with weights so spread that images and texts make a difference."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.02 * factor)
        elif "scale" not in name and "norm" not in name.lower():
            parameter.data.normal_(std=0.1)
    return model.eval()


def clip_vision(size: int = 32) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 16,
    }


TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def clip_images(size: int = 32) -> Any:
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
