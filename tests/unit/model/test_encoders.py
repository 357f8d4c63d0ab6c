"""A model that starts from BERT and a ViT computes what they compute, as transformers has them."""

import json
from pathlib import Path
from typing import Any

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

from components.common.contracts import ModelRef
from components.common.errors import ModelError
from components.common.storage import open_store
from components.model.blip import BlipPretrain
from components.model.checkpoints.folder import read_preprocessor
from components.model.config import CLIP_MEAN, CLIP_STD, BlipConfig, EncodersConfig, TextConfig, VisionConfig
from components.model.encoders import model_from_encoders, publish_start
from components.model.tokenizer import BlipTokenizer
from components.model.tokens import Tokens

EPS, TEXT_EPS, TIMM_EPS = 1e-3, 1e-2, 1e-6  # so large that another epsilon shows
CONFIG = BlipConfig(
    vision=VisionConfig(image_size=48, patch_size=16, width=24, depth=2, heads=3, layer_norm_eps=EPS),
    text=TextConfig(
        vocab_size=62, width=32, depth=2, heads=4, intermediate=64, max_positions=40, layer_norm_eps=TEXT_EPS,
        cls_id=1, sep_id=2, dec_id=60, enc_id=61,
    ),
    embed_dim=16,
    queue_size=8,
)  # fmt: skip


def bert_config(**changes: Any) -> BertConfig:
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 50, "pad_token_id": 0}
    return BertConfig(**(sizes | {"layer_norm_eps": TEXT_EPS} | changes))


def vit_config(**changes: Any) -> ViTConfig:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    return ViTConfig(**(sizes | {"image_size": 48, "patch_size": 16, "layer_norm_eps": EPS} | changes))


def saved(model: PreTrainedModel, folder: Path) -> Path:
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.add_(1)  # else the last norm would shrink all that came before
    model.eval().save_pretrained(folder)
    model.double()  # what it is compared in: sums in another order differ in fp32, by processor
    return folder


def start(
    vision: Path | None = None, text: Path | None = None, seed: int = 0, config: BlipConfig = CONFIG, **options: bool
) -> BlipPretrain:
    return model_from_encoders(config, vision=vision, text=text, seed=seed, **options).double().eval()


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs)


def edited(folder: Path, file: str = "config.json", **changes: Any) -> Path:
    """The folder, its file saying something else; None removes a key."""
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in (values | changes).items() if v is not None}))
    return folder


@pytest.mark.parametrize("kind", [ViTModel, ViTForImageClassification])
def test_image_encoder_is_the_vit(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    theirs = kind(vit_config())
    model = start(vision=saved(theirs, tmp_path))
    pixels = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    expected = getattr(theirs, "vit", theirs)(pixels).last_hidden_state
    assert_same(model.vision_model(pixels), expected)


def test_vit_of_another_size_is_interpolated(tmp_path: Path) -> None:
    theirs = ViTModel(vit_config(image_size=64))
    model = start(vision=saved(theirs, tmp_path))
    pixels = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    expected = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state
    assert_same(model.vision_model(pixels), expected)


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


def timm_folder(vit: ViTModel, folder: Path, **config: Any) -> Path:
    """A ViT as timm saves it."""
    theirs = saved(vit, folder / "hf")
    (folder / "timm").mkdir()
    save_file(timm_names(load_file(theirs / "model.safetensors")), folder / "timm" / "model.safetensors")
    (folder / "timm" / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"} | config))
    return folder / "timm"


TIMM_CONFIG = CONFIG.with_vision(layer_norm_eps=TIMM_EPS)


def test_timms_vit(tmp_path: Path) -> None:
    theirs = ViTModel(vit_config(layer_norm_eps=TIMM_EPS))
    model = start(vision=timm_folder(theirs, tmp_path), config=TIMM_CONFIG)
    for name, value in start(vision=tmp_path / "hf", config=TIMM_CONFIG).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    pixels = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    assert_same(model.vision_model(pixels), theirs(pixels).last_hidden_state)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"architecture": "vit_small_patch16_224"}, r"it has 6 heads, not 3: set model\.vision\.heads=6"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 4}}, "it has 4 heads, not 3"),
        ({"architecture": "vit_wee_patch16_reg1_gap_256"}, "how many heads timm's vit_wee_patch16_reg1_gap_256 has"),
    ],
)
def test_timms_heads_follow_from_its_config(config: dict[str, Any], told: str, tmp_path: Path) -> None:
    folder = timm_folder(ViTModel(vit_config(layer_norm_eps=TIMM_EPS)), tmp_path, **config)
    with pytest.raises(ModelError, match=told):
        start(vision=folder, config=TIMM_CONFIG)


def test_a_vit_with_more_than_blip_has_is_refused(tmp_path: Path) -> None:
    folder = timm_folder(ViTModel(vit_config(layer_norm_eps=TIMM_EPS)), tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"blocks.0.ls1.gamma": torch.ones(24)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 unexpected: .*blocks\.0\.ls1\.gamma"):
        start(vision=folder, config=TIMM_CONFIG)


def all_states(model: BlipPretrain, ids: Tensor, mask: Tensor) -> Tensor:
    """States of all tokens of the text encoder, 0 on padding."""
    tokens = Tokens.of(ids, mask)
    return tokens.spread(model.text._encode(ids, tokens, None, None, first_only=False)) * mask[..., None]


def some_texts() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 60, (4, 7))
    ids[:, 0] = 1
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[1, 4:] = mask[3, 2:] = False
    return ids, mask


@pytest.mark.parametrize("kind", [BertModel, BertForPreTraining])
def test_text_encoder_is_bert(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    theirs = kind(bert_config())
    model = start(text=saved(theirs, tmp_path))
    ids, mask = some_texts()
    expected = getattr(theirs, "bert", theirs)(ids, attention_mask=mask.long()).last_hidden_state
    assert_same(all_states(model, ids, mask), expected * mask[..., None])
    assert_same(model.text.encode(ids, mask), expected[:, 0])


def test_as_released_token_types_are_dropped(tmp_path: Path) -> None:
    theirs = BertModel(bert_config())
    saved(theirs, tmp_path)
    ids, mask = some_texts()
    full = theirs(ids, attention_mask=mask.long()).last_hidden_state * mask[..., None]
    theirs.embeddings.token_type_embeddings.weight.data.zero_()
    dropped = theirs(ids, attention_mask=mask.long()).last_hidden_state * mask[..., None]
    released = all_states(start(text=tmp_path, as_released=True), ids, mask)
    assert_same(released, dropped)
    assert float((released - full).detach().norm() / full.detach().norm()) > 0.1


def test_as_released_the_epsilon_is_the_networks_own(tmp_path: Path) -> None:
    vision = saved(ViTModel(vit_config(layer_norm_eps=1e-12)), tmp_path / "vit")
    text = saved(BertModel(bert_config(layer_norm_eps=1e-12)), tmp_path / "bert")
    assert start(vision=vision, text=text, as_released=True).vision_model.norm.eps == EPS


def test_decoder_is_bert_with_its_language_head(tmp_path: Path) -> None:
    """Without image: cross-attention that adds nothing and norms that change nothing, as a layer's input is normed."""
    theirs = BertLMHeadModel(BertConfig(**bert_config().to_dict() | {"is_decoder": True}))
    model = start(text=saved(theirs, tmp_path))
    ids = torch.randint(3, 60, (3, 6))
    with torch.no_grad():
        hidden = model.text._embed(ids, tokens := Tokens.of(ids, None), 0)
        for index, layer in enumerate(model.text.layers):
            hidden = layer.feed_forward(layer.decoder_attention.causal(hidden, tokens, None, index))
        logits = model.text.token_logits(tokens.spread(hidden))
        expected = theirs(ids).logits
    assert_same(logits[..., :60], expected)


def test_names_of_berts_first_files(tmp_path: Path) -> None:
    new = saved(BertForPreTraining(bert_config()), tmp_path / "new")
    tensors = load_file(new / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
           for name, value in tensors.items()}  # fmt: skip
    (tmp_path / "old").mkdir()
    save_file(old, tmp_path / "old" / "model.safetensors")
    (tmp_path / "old" / "config.json").write_text((new / "config.json").read_text())
    edited(tmp_path / "old", model_type=None)
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


def test_more_layers_than_the_network_has_are_refused(tmp_path: Path) -> None:
    text = saved(BertModel(bert_config(num_hidden_layers=3)), tmp_path)
    with pytest.raises(ModelError, match=r"unexpected: .*encoder\.layer\.2\."):
        start(text=text)


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_attention_heads": 8}, r"it has 8 heads, not 4: set model\.text\.heads=8"),
        ({"num_attention_heads": None}, "it has 12 heads, not 4"),
        ({"hidden_act": "relu"}, "it computes with 'relu', BLIP with 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "its positions are 'relative_key'"),
        ({"model_type": "roberta"}, "its model_type is 'roberta', give one of bert"),
    ],
)
def test_a_bert_that_computes_something_else_is_refused(
    changes: dict[str, Any], told: str, as_released: bool, tmp_path: Path
) -> None:
    text = edited(saved(BertModel(bert_config()), tmp_path), **changes)
    with pytest.raises(ModelError, match=told):
        start(text=text, as_released=as_released)


def test_what_differs_is_told_at_once(tmp_path: Path) -> None:
    vision = saved(ViTModel(vit_config(num_attention_heads=6, layer_norm_eps=1e-12)), tmp_path)
    told = r"it has 6 heads, not 3: set model\.vision\.heads=6; .* set model\.vision\.layer_norm_eps=1e-12$"
    with pytest.raises(ModelError, match=told):
        start(vision=vision)
    mended = CONFIG.with_vision(heads=6, layer_norm_eps=1e-12)
    assert start(vision=vision, config=mended).vision_model.norm.eps == 1e-12


def test_weights_alone_do_not_tell_their_heads(tmp_path: Path) -> None:
    text = saved(BertModel(bert_config()), tmp_path)
    (text / "config.json").unlink()
    with pytest.raises(ModelError, match="do not tell how many heads"):
        start(text=text)


def published(vision: Path, tmp_path: Path, *, as_released: bool = False) -> tuple[Any, Any]:
    """Mean and deviation of images that the published start says."""
    BlipTokenizer.train(["a red square left of a blue disc"], 100, min_count=1).save(tmp_path / "tokenizer")
    ref = publish_start(
        CONFIG,
        {"vision": ModelRef(role="base", uri=str(vision), digest="")},
        tokenizer=str(tmp_path / "tokenizer"),
        seed=0,
        store=open_store(str(tmp_path / "store")),
        work_dir=tmp_path / "work",
        as_released=as_released,
    )
    preprocessor = read_preprocessor(Path(ref.uri), 48)
    return preprocessor.mean, preprocessor.std


MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("file", "says", "expected"),
    [
        ("preprocessor_config.json", {"image_mean": MEAN, "image_std": STD, "resample": 2}, (MEAN, STD)),
        ("preprocessor_config.json", {"do_normalize": False}, ((0.0,) * 3, (1.0,) * 3)),
        ("preprocessor_config.json", {"size": 48}, ((0.5,) * 3, (0.5,) * 3)),
        ("config.json", {"pretrained_cfg": {"mean": MEAN, "std": STD}}, (MEAN, STD)),
        ("config.json", {"mean": MEAN, "std": STD}, (MEAN, STD)),
        ("config.json", {}, (CLIP_MEAN, CLIP_STD)),
    ],
)
def test_images_are_normalised_as_the_vits_were(
    file: str, says: dict[str, Any], expected: tuple[Any, Any], tmp_path: Path
) -> None:
    vision = edited(saved(ViTModel(vit_config()), tmp_path / "vit"), file, **says)
    assert published(vision, tmp_path) == expected
    assert published(vision, tmp_path / "released", as_released=True) == (CLIP_MEAN, CLIP_STD)


def test_folders_that_are_given() -> None:
    assert EncodersConfig(text="bert").folders() == {"text": "bert"}
    assert EncodersConfig(text="bert", vision="vit", as_released=True).folders() == {"vision": "vit", "text": "bert"}
