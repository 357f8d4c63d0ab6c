"""A model that starts from BERT and a ViT computes what they compute, as transformers has them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertLMHeadModel,
    BertModel,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from components.common.errors import ModelError
from components.model.blip import BlipPretrain
from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.model.encoders import model_from_encoders
from components.model.tokens import Tokens

EPS = 1e-6
CONFIG = BlipConfig(
    vision=VisionConfig(image_size=48, patch_size=16, width=24, depth=2, heads=3, layer_norm_eps=EPS),
    text=TextConfig(
        vocab_size=62, width=32, depth=2, heads=4, intermediate=64, max_positions=40,
        cls_id=1, sep_id=2, dec_id=60, enc_id=61,
    ),
    embed_dim=16,
    queue_size=8,
)  # fmt: skip


def bert_config(**changes: int) -> BertConfig:
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 50, "pad_token_id": 0}
    return BertConfig(**(sizes | changes))


def vit_config(**changes: int) -> ViTConfig:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    return ViTConfig(**(sizes | {"image_size": 48, "patch_size": 16} | changes), layer_norm_eps=EPS)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    model.eval().save_pretrained(folder)
    return folder


def start(vision: Path | None = None, text: Path | None = None, seed: int = 0) -> BlipPretrain:
    return model_from_encoders(CONFIG, vision=vision, text=text, seed=seed).eval()


@pytest.mark.parametrize("kind", [ViTModel, ViTForImageClassification])
def test_image_encoder_is_the_vit(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    theirs = kind(vit_config())
    model = start(vision=saved(theirs, tmp_path))
    pixels = torch.randn(2, 3, 48, 48)
    expected = getattr(theirs, "vit", theirs)(pixels).last_hidden_state
    torch.testing.assert_close(model.vision_model(pixels), expected, atol=1e-4, rtol=1e-4)


def test_vit_of_another_size_is_interpolated(tmp_path: Path) -> None:
    theirs = ViTModel(vit_config(image_size=64))
    model = start(vision=saved(theirs, tmp_path))
    pixels = torch.randn(2, 3, 48, 48)
    expected = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(model.vision_model(pixels), expected, atol=1e-4, rtol=1e-4)


def timm_names(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same ViT as timm writes it."""
    named = {
        "cls_token": vit["embeddings.cls_token"],
        "pos_embed": vit["embeddings.position_embeddings"],
        "head.weight": torch.zeros(10, 24),
    }
    for kind in ("weight", "bias"):
        named[f"patch_embed.proj.{kind}"] = vit[f"embeddings.patch_embeddings.projection.{kind}"]
        named[f"norm.{kind}"] = vit[f"layernorm.{kind}"]
        for layer in range(2):
            old, new = f"encoder.layer.{layer}", f"blocks.{layer}"
            parts = [vit[f"{old}.attention.attention.{name}.{kind}"] for name in ("query", "key", "value")]
            named[f"{new}.attn.qkv.{kind}"] = torch.cat(parts)
            named[f"{new}.attn.proj.{kind}"] = vit[f"{old}.attention.output.dense.{kind}"]
            named[f"{new}.norm1.{kind}"] = vit[f"{old}.layernorm_before.{kind}"]
            named[f"{new}.norm2.{kind}"] = vit[f"{old}.layernorm_after.{kind}"]
            named[f"{new}.mlp.fc1.{kind}"] = vit[f"{old}.intermediate.dense.{kind}"]
            named[f"{new}.mlp.fc2.{kind}"] = vit[f"{old}.output.dense.{kind}"]
    return named


def test_timms_names(tmp_path: Path) -> None:
    theirs = saved(ViTModel(vit_config()), tmp_path / "hf")
    (tmp_path / "timm").mkdir()
    save_file(timm_names(load_file(theirs / "model.safetensors")), tmp_path / "timm" / "model.safetensors")
    for name, value in start(vision=theirs).state_dict().items():
        assert torch.equal(value, start(vision=tmp_path / "timm").state_dict()[name]), name


def without_token_types(model: BertModel) -> None:
    """BLIP has no token types: what BERT adds for its first segment is left out on both sides."""
    model.embeddings.token_type_embeddings.weight.data.zero_()


@pytest.mark.parametrize("kind", [BertModel, BertForPreTraining])
def test_text_encoder_is_bert(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    theirs = kind(bert_config())
    model = start(text=saved(theirs, tmp_path))
    bert = getattr(theirs, "bert", theirs)
    without_token_types(bert)
    ids = torch.randint(3, 60, (4, 7))
    ids[:, 0] = 1
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[1, 4:] = mask[3, 2:] = False
    expected = bert(ids, attention_mask=mask.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(model.text.encode(ids, mask), expected, atol=1e-4, rtol=1e-4)


def test_decoder_is_bert_with_its_language_head(tmp_path: Path) -> None:
    """Without image: cross-attention that adds nothing and norms that change nothing, as a layer's input is normed."""
    theirs = BertLMHeadModel(BertConfig(**bert_config().to_dict() | {"is_decoder": True}))
    model = start(text=saved(theirs, tmp_path))
    without_token_types(theirs.bert)
    ids = torch.randint(3, 60, (3, 6))
    with torch.no_grad():
        hidden = model.text._embed(ids, tokens := Tokens.of(ids, None), 0)
        for index, layer in enumerate(model.text.layers):
            hidden = layer.feed_forward(layer.decoder_attention.causal(hidden, tokens, None, index))
        logits = model.text.token_logits(tokens.spread(hidden))
        expected = theirs(ids).logits
    torch.testing.assert_close(logits[..., :60], expected, atol=1e-4, rtol=1e-4)


def test_names_of_berts_first_files(tmp_path: Path) -> None:
    new = saved(BertForPreTraining(bert_config()), tmp_path / "new")
    tensors = load_file(new / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
           for name, value in tensors.items()}  # fmt: skip
    (tmp_path / "old").mkdir()
    save_file(old, tmp_path / "old" / "model.safetensors")
    for name, value in start(text=new).state_dict().items():
        assert torch.equal(value, start(text=tmp_path / "old").state_dict()[name]), name


def test_the_rest_is_fresh_and_decided_by_the_seed(tmp_path: Path) -> None:
    text = saved(BertForPreTraining(bert_config()), tmp_path)
    one, same, other = start(text=text), start(text=text), start(text=text, seed=1)
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert torch.equal(one.text.words.weight[:60], other.text.words.weight[:60])
    assert not torch.equal(one.text.words.weight[60:], other.text.words.weight[60:])
    assert not torch.equal(one.vision_model.patch.weight, other.vision_model.patch.weight)
    cross = [layer.cross_attention.query.weight.detach() for layer in one.text.layers]
    assert all(0.01 < float(weight.std()) < 0.03 for weight in cross)
    assert float(one.text.head.bias.detach()[60:].abs().max()) == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"hidden_size": 16}, "mis-shaped"), ({"num_hidden_layers": 1}, "missing"), ({"vocab_size": 58}, "58 tokens")],
)
def test_another_bert_is_refused(changes: dict[str, int], told: str, tmp_path: Path) -> None:
    text = saved(BertModel(bert_config(**changes)), tmp_path)
    with pytest.raises(ModelError, match=told):
        start(text=text)


def test_a_vit_is_no_bert(tmp_path: Path) -> None:
    vision = saved(ViTModel(vit_config()), tmp_path)
    with pytest.raises(ModelError, match="missing"):
        start(text=vision)
