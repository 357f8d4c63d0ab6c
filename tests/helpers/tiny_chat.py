"""Tiny random models of families that answer an instruction, as tiny_transformers.py has the others."""

import json
from pathlib import Path
from typing import Any

from tests.helpers.tiny_parts import CHAT, TEXT, clip_vision, scattered, words_tokenizer


def qwen3_vl(folder: Path) -> None:
    from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    words = words_tokenizer(*marks)
    ids = dict(zip(marks, words.convert_tokens_to_ids(list(marks)), strict=True))
    config = Qwen3VLConfig(
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )
    _save(scattered(Qwen3VLForConditionalGeneration(config), 21), folder)
    words.chat_template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    words.save_pretrained(folder)
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 4 * 32 * 32}
    Qwen2VLImageProcessorPil(size=sizes, patch_size=16).save_pretrained(folder)


def smolvlm(folder: Path) -> None:
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil

    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = words_tokenizer(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places, wrap="<s> $A"
    )
    config = SmolVLMConfig(
        vision_config={**clip_vision(), "patch_size": 8},
        text_config=LlamaConfig(vocab_size=len(words), **TEXT).to_dict(),
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    _save(scattered(SmolVLMForConditionalGeneration(config), 22), folder)
    words.save_pretrained(folder)
    SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}).save_pretrained(folder)
    _whole(folder, "SmolVLMProcessor", CHAT.replace("IMAGE", "<image>"), image_seq_len=4)


def internvl(folder: Path) -> None:
    from transformers import GotOcr2ImageProcessorPil, InternVLConfig, InternVLForConditionalGeneration, Qwen2Config

    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = words_tokenizer(*marks.values(), extra_special_tokens=marks)
    config = InternVLConfig(
        vision_config={**clip_vision(), "patch_size": 8},
        text_config=Qwen2Config(vocab_size=len(words), **TEXT).to_dict(),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    _save(scattered(InternVLForConditionalGeneration(config), 23), folder)
    words.save_pretrained(folder)
    GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=3).save_pretrained(folder)
    _whole(folder, "InternVLProcessor", CHAT.replace("IMAGE", "<IMG_CONTEXT>"), image_seq_length=4)


def gemma3(folder: Path) -> None:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        Gemma3TextConfig,
    )

    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = words_tokenizer(*marks.values(), wrap="<s> $A", extra_special_tokens=marks)
    config = Gemma3Config(
        text_config=Gemma3TextConfig(
            vocab_size=len(words), head_dim=16, query_pre_attn_scalar=16, sliding_window=16, **TEXT
        ).to_dict(),
        vision_config={**clip_vision(), "patch_size": 8},
        mm_tokens_per_image=4,
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
    )
    _save(scattered(Gemma3ForConditionalGeneration(config), 32), folder)
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    template = CHAT.replace("IMAGE", "<start_of_image>")
    Gemma3Processor(images, words, chat_template=template, image_seq_length=4).save_pretrained(folder)


def _save(model: Any, folder: Path) -> None:
    """With an end token, which configs of a text part inside do not bring along."""
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)


def _whole(folder: Path, kind: str, template: str, **settings: Any) -> None:
    """The files of a processor whose part for video cannot be made here."""
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": kind, **settings}))
    (folder / "chat_template.jinja").write_text(template)
