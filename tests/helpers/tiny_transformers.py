"""Tiny random models of transformers' families, built and saved as their makers save them, without any network."""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny_chat import gemma3, internvl, qwen3_vl, smolvlm
from tests.helpers.tiny_parts import CHAT, TEXT, clip_images, clip_vision, scattered, words_tokenizer


def git(folder: Path) -> None:
    from transformers import GitConfig, GitForCausalLM, GitProcessor

    words = words_tokenizer(wrap="<s> $A </s>")
    config = GitConfig(
        vision_config=clip_vision(),
        vocab_size=len(words),
        **{k: v for k, v in TEXT.items() if k != "num_key_value_heads"},
    )
    scattered(GitForCausalLM(config), 1).save_pretrained(folder)
    GitProcessor(clip_images(), words).save_pretrained(folder)


def blip2(folder: Path) -> None:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessorPil,
        OPTConfig,
    )

    words = words_tokenizer("<image>", wrap="<s> $A")
    text = OPTConfig(
        vocab_size=len(words),
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=32,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**clip_vision()).to_dict(),
        qformer_config=Blip2QFormerConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, encoder_hidden_size=32
        ).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    scattered(Blip2ForConditionalGeneration(config), 2).save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)


def florence2(folder: Path) -> None:
    from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor
    from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

    locations = [f"<loc_{at}>" for at in range(4)]
    words = words_tokenizer("<image>", *locations, wrap="<s> $A </s>", extra_special_tokens={"image_token": "<image>"})
    vision = Florence2VisionConfig(
        embed_dim=[8, 16],
        num_heads=[1, 2],
        num_groups=[1, 2],
        depths=[1, 1],
        window_size=4,
        patch_size=[7, 3],
        patch_stride=[4, 2],
        patch_padding=[3, 1],
        patch_prenorm=[False, True],
        projection_dim=32,
    )
    text = BartConfig(
        vocab_size=len(words),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    config = Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        is_encoder_decoder=True,
    )
    scattered(Florence2ForConditionalGeneration(config), 3).save_pretrained(folder)
    images = clip_images()
    images.image_seq_length = 17
    Florence2Processor(images, words, post_processor_config={"pure_text": {}}).save_pretrained(folder)


def llava(folder: Path) -> None:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaImageProcessorPil,
        LlavaProcessor,
    )

    words = words_tokenizer("<image>", wrap="<s> $A")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**clip_vision()).to_dict(),
        text_config=LlamaConfig(vocab_size=len(words), **TEXT).to_dict(),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=4,
    )
    scattered(LlavaForConditionalGeneration(config), 4).save_pretrained(folder)
    images = LlavaImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images,
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)


def qwen2_5_vl(folder: Path) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    words = words_tokenizer(*marks)
    ids = dict(zip(marks, words.convert_tokens_to_ids(list(marks)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    scattered(Qwen2_5_VLForConditionalGeneration(config), 5).save_pretrained(folder)
    words.chat_template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    words.save_pretrained(folder)
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}
    Qwen2VLImageProcessorPil(size=sizes).save_pretrained(folder)


def idefics3(folder: Path) -> None:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        LlamaConfig,
    )

    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = words_tokenizer(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places, wrap="<s> $A"
    )
    config = Idefics3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config=LlamaConfig(vocab_size=len(words), **TEXT).to_dict(),
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    scattered(Idefics3ForConditionalGeneration(config), 6).save_pretrained(folder)
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    Idefics3Processor(images, words, image_seq_len=4, chat_template=CHAT.replace("IMAGE", "<image>")).save_pretrained(
        folder
    )


CAPTIONERS: dict[str, Callable[[Path], None]] = {
    "blip-2": blip2,
    "florence2": florence2,
    "gemma3": gemma3,
    "git": git,
    "idefics3": idefics3,
    "internvl": internvl,
    "llava": llava,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
}


# ------------------------------------------------------------------------------------------------------------- scorers


def _bert_words() -> PreTrainedTokenizerFast:
    return words_tokenizer(wrap="<s> $A </s>")


def clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor

    words = _bert_words()
    text = {"vocab_size": len(words), **TEXT, "max_position_embeddings": 77}
    config = CLIPConfig(text_config=text, vision_config=clip_vision(), projection_dim=16)
    scattered(CLIPModel(config), 11).save_pretrained(folder)
    CLIPProcessor(clip_images(), words).save_pretrained(folder)


def siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipProcessor

    words = _bert_words()
    text = {"vocab_size": len(words), **TEXT, "max_position_embeddings": 64}
    config = SiglipConfig(text_config=text, vision_config=clip_vision())
    model = scattered(SiglipModel(config), 12)
    model.logit_scale.data.fill_(1.5)
    model.save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessorPil(size={"height": 32, "width": 32}), words).save_pretrained(folder)


def siglip2(folder: Path) -> None:
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model, Siglip2Processor

    words = _bert_words()
    text = {"vocab_size": len(words), **TEXT, "max_position_embeddings": 64}
    vision = {**clip_vision(), "num_patches": 16}
    vision.pop("image_size")
    model = scattered(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)), 13)
    model.logit_scale.data.fill_(1.5)
    model.save_pretrained(folder)
    images = Siglip2ImageProcessorPil(patch_size=16)
    Siglip2Processor(images, words).save_pretrained(folder)


def blip2_itm(folder: Path) -> None:
    from transformers import (
        Blip2Config,
        Blip2ForImageTextRetrieval,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessorPil,
    )

    words = words_tokenizer("<image>", wrap="<s> $A </s>")
    former = Blip2QFormerConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        encoder_hidden_size=32,
        use_qformer_text_input=True,
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**clip_vision()).to_dict(),
        qformer_config=former.to_dict(),
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    scattered(Blip2ForImageTextRetrieval(config), 14).save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)


SCORERS: dict[str, Callable[[Path], None]] = {
    "blip-2": blip2_itm,
    "clip": clip,
    "siglip": siglip,
    "siglip2": siglip2,
}
