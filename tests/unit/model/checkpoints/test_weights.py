"""Model folders: what goes round, what is refused and in what words, and how they travel through a store."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipProcessor

from components.common.errors import ModelError
from components.common.storage import open_store, s3_client
from components.model.blip import BlipCaptioner, BlipFilter, BlipPretrain, BlipVqa
from components.model.checkpoints.publishing import reference_model
from components.model.checkpoints.weights import (
    fetch_model,
    load_base,
    load_captioner,
    load_filter,
    load_teacher,
    load_vqa,
    publish_model,
    save_model,
)
from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.model.learning import ModelBatch, PretrainObjective
from components.model.tokenizer import BlipTokenizer
from tests.helpers.s3 import serve_s3

TOKENIZER = BlipTokenizer.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ball", "##s"])
CONFIG = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2, drop_path=0.05),
    text=TextConfig(width=24, depth=1, heads=2, intermediate=32, max_positions=12, dropout=0.2, attention_dropout=0.0),
    embed_dim=8,
    queue_size=4,
    label_smoothing=0.2,
).for_tokenizer(TOKENIZER)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def captioner(tmp_path: Path) -> Path:
    save_model(BlipCaptioner(CONFIG), TOKENIZER, tmp_path / "captioner")
    return tmp_path / "captioner"


def test_everything_goes_round(tmp_path: Path) -> None:
    model = BlipFilter(CONFIG, "cls")
    with torch.no_grad():
        model.temperature.fill_(0.031)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    save_model(model, TOKENIZER, tmp_path, image_mean=mean, image_std=std)
    loaded = load_filter(tmp_path)
    assert (loaded.preprocessor.size, loaded.preprocessor.mean, loaded.preprocessor.std) == (32, mean, std)
    assert loaded.tokenizer.digest == TOKENIZER.digest
    assert (
        loaded.model.position_zero == "cls" and load_filter(tmp_path, position_zero="enc").model.position_zero == "enc"
    )
    assert loaded.model.config == CONFIG.model_copy(update={"temperature": float(torch.tensor(0.031))})
    assert not loaded.model.training and all(parameter.requires_grad for parameter in loaded.model.parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(loaded.model.get_parameter(name), parameter, rtol=0, atol=0)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = BlipPretrain(CONFIG)
    for name in ("a", "b"):
        save_model(model, TOKENIZER, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_tied_weights_are_stored_without_the_output_matrix(captioner: Path) -> None:
    names = load_file(captioner / "model.safetensors").keys()
    assert not [name for name in names if "predictions.decoder" in name]


def test_a_half_precision_model_is_saved_in_fp32_from_the_weights_given(tmp_path: Path) -> None:
    model = BlipCaptioner(CONFIG)
    exact = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(model.bfloat16(), TOKENIZER, tmp_path, weights=exact)
    loaded = load_captioner(tmp_path).model
    for name, value in exact.items():
        torch.testing.assert_close(loaded.get_parameter(name).detach(), value, rtol=0, atol=0)


def test_an_official_folder_keeps_blips_dropout_and_enc_after_dec(captioner: Path) -> None:
    values = json.loads((captioner / "config.json").read_text())
    del values["capfilt"]
    values["text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (captioner / "config.json").write_text(json.dumps(values))
    text = load_captioner(captioner).model.config.text
    assert (text.dropout, text.attention_dropout) == (0.1, 0.1)  # the hub's zeros are a class default, not a choice
    assert (text.dec_id, text.enc_id, text.cls_id) == (TOKENIZER.dec_id, TOKENIZER.enc_id, TOKENIZER.cls_id)


def test_what_a_config_leaves_out_is_what_transformers_takes(captioner: Path) -> None:
    values = json.loads((captioner / "config.json").read_text())
    del values["vision_config"]["layer_norm_eps"], values["capfilt"]
    (captioner / "config.json").write_text(json.dumps(values))
    assert load_captioner(captioner).model.config.vision.layer_norm_eps == 1e-5


def test_teacher_travels_with_a_pretrained_model(tmp_path: Path) -> None:
    stage = PretrainObjective(BlipPretrain(CONFIG)).train()
    ids = torch.tensor([[2, 5, 3], [2, 6, 3]])
    stage(ModelBatch(torch.randn(2, 3, 32, 32), ids, torch.ones_like(ids), torch.tensor([4, 5])))
    stage.after_step()
    save_model(stage.model, TOKENIZER, tmp_path, teacher=stage.teacher_state())
    state = load_teacher(tmp_path)
    assert state is not None and state["queue.image_ids"].tolist() == [4, 5, -100, -100]
    again = PretrainObjective(load_base(tmp_path).model)
    again.load_teacher_state(state)
    for name, value in stage.teacher_state().items():
        torch.testing.assert_close(again.teacher_state()[name], value, rtol=0, atol=0)


def test_training_goes_on_at_another_image_size(tmp_path: Path) -> None:
    stage = PretrainObjective(BlipPretrain(CONFIG))
    save_model(stage.model, TOKENIZER, tmp_path, teacher=stage.teacher_state())
    larger = PretrainObjective(load_base(tmp_path, image_size=64).model)
    state = load_teacher(tmp_path)
    assert state is not None
    larger.load_teacher_state(state)
    # the teacher started as the student, and is stretched as the student is
    positions = larger.teacher_state()["encoders.vision_model.positions"]
    torch.testing.assert_close(positions, larger.model.vision_model.positions.detach(), rtol=0, atol=0)
    with pytest.raises(ModelError, match="do not fit"):
        larger.load_teacher_state({name: value for name, value in state.items() if "text_proj" not in name})


def test_no_teacher_in_other_folders(captioner: Path) -> None:
    assert load_teacher(captioner) is None


# --- what is refused ---


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_missing_unexpected_and_misshaped_names_are_listed(captioner: Path) -> None:
    def damage(weights: dict[str, torch.Tensor]) -> None:
        del weights["vision_model.post_layernorm.bias"]
        weights["text_decoder.cls.predictions.bias"] = torch.zeros(3)
        weights["head.of.another.model"] = torch.zeros(1)

    rewrite(captioner, damage)
    with pytest.raises(ModelError) as caught:
        load_captioner(captioner)
    message = str(caught.value)
    assert "1 missing: vision_model.post_layernorm.bias" in message
    assert "1 unexpected: head.of.another.model" in message
    assert "1 mis-shaped: text_decoder.cls.predictions.bias (3,) instead of (11,)" in message


def test_the_other_of_captioner_and_filter_is_told_by_what_it_is(captioner: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a captioner, which judges no texts: give a filter's folder"):
        load_filter(captioner)
    save_model(BlipFilter(CONFIG), TOKENIZER, tmp_path / "filter")
    with pytest.raises(ModelError, match="is a filter, which writes no captions: give a captioner's folder"):
        load_captioner(tmp_path / "filter")


def test_of_many_names_the_first_twenty_and_a_count(captioner: Path) -> None:
    config = json.loads((captioner / "config.json").read_text())
    (captioner / "config.json").write_text(json.dumps({**config, "architectures": []}))
    with pytest.raises(ModelError) as caught:
        load_filter(captioner)  # another role that does not say so: its text encoder and heads are missing
    listed = re.search(r"(\d+) missing: (.*?) … and (\d+) more", str(caught.value))
    assert listed is not None
    assert len(listed[2].split(", ")) == 20 and int(listed[1]) == 20 + int(listed[3])


def test_a_partial_checkpoint_is_refused(captioner: Path) -> None:
    rewrite(captioner, lambda weights: weights.pop("text_decoder.bert.encoder.layer.0.attention.self.key.weight"))
    with pytest.raises(ModelError, match="1 missing: text_decoder.bert.encoder.layer.0.attention.self.key.weight"):
        load_captioner(captioner)


def test_an_untied_checkpoint_is_no_base(tmp_path: Path) -> None:
    save_model(BlipPretrain(CONFIG), TOKENIZER, tmp_path)
    rewrite(tmp_path, lambda weights: weights["text_encoder.embeddings.LayerNorm.bias"].add_(1))
    with pytest.raises(ModelError, match="shares the two"):
        load_base(tmp_path)
    load_filter(tmp_path), load_captioner(tmp_path)  # each half is whole


def test_an_untied_output_matrix_is_refused(captioner: Path) -> None:
    name = "text_decoder.cls.predictions.decoder.weight"
    rewrite(captioner, lambda weights: weights.update({name: torch.zeros(11, 24)}))
    with pytest.raises(ModelError, match="ties"):
        load_captioner(captioner)


def test_a_vqa_model_is_no_captioner(tmp_path: Path) -> None:
    config = CONFIG.with_vision(width=24)
    save_model(BlipVqa(config), TOKENIZER, tmp_path)
    load_vqa(tmp_path)
    with pytest.raises(ModelError, match="VQA"):
        load_captioner(tmp_path)
    with pytest.raises(ModelError, match="equally wide"):
        save_model(BlipVqa(CONFIG), TOKENIZER, tmp_path / "other")


def test_pickles_are_refused_with_a_remedy(captioner: Path) -> None:
    (captioner / "model.safetensors").rename(captioner / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*save_pretrained"):
        load_captioner(captioner)


def test_a_pickled_file_is_refused_without_running_it(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model": {"x": Path("/tmp/x")}}, path)
    with pytest.raises(ModelError, match="safe to read"):
        load_captioner(path, tokenizer=TOKENIZER)
    torch.save({"model": {"step": 3}}, path)
    with pytest.raises(ModelError, match="state dict of tensors"):
        load_captioner(path, tokenizer=TOKENIZER)
    torch.save({"model": {"layer.weight": torch.zeros(2)}}, path)
    with pytest.raises(ModelError, match="no BLIP checkpoint"):
        load_captioner(path, tokenizer=TOKENIZER)


def test_truncated_weights_are_refused(captioner: Path) -> None:
    path = captioner / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="safetensors"):
        load_captioner(captioner)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "clip"}, "model_type is 'clip'"),
        ("config.json", {"vision_config": {"image_size": [32, 48]}}, "square"),
        ("config.json", {"vision_config": {"num_attention_heads": 5}}, "multiple of heads"),
        ("preprocessor_config.json", {"resample": 2}, "bicubic"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 64}}, "square"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "three numbers"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "1/255"),
    ],
)
def test_odd_settings_are_refused(captioner: Path, file: str, changes: dict[str, object], message: str) -> None:
    edit_json(captioner / file, **changes)
    with pytest.raises(ModelError, match=message):
        load_captioner(captioner)


def test_another_vocabulary_is_refused(captioner: Path, tmp_path: Path) -> None:
    larger = BlipTokenizer.from_tokens([*TOKENIZER._tokens()[:9], "more"])
    with pytest.raises(ModelError, match="not this model's"):
        load_captioner(captioner, tokenizer=larger)
    with pytest.raises(ModelError, match="not this model's"):
        save_model(BlipCaptioner(CONFIG), larger, tmp_path / "x")


def test_missing_things_are_named(captioner: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        load_captioner(tmp_path / "nowhere")
    (captioner / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        load_captioner(captioner)
    (captioner / "config.json").write_text("{")
    with pytest.raises(ModelError, match="JSON"):
        load_captioner(captioner)
    (captioner / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_captioner(captioner)


def spread(folder: Path) -> dict[str, dict[str, str]]:
    """The folder's weights in two files; the index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    files = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_weights_in_several_files(captioner: Path) -> None:
    index = spread(captioner)
    load_captioner(captioner)
    index["weight_map"][next(iter(index["weight_map"]))] = "../model-1.safetensors"
    (captioner / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="outside"):
        load_captioner(captioner)
    with pytest.raises(ModelError, match="outside"):
        reference_model(str(captioner), "captioner")


def test_every_file_that_decides_counts_in_a_plain_folders_digest(captioner: Path) -> None:
    seen = {reference_model(str(captioner), "captioner").digest}

    def is_new() -> bool:
        digest = reference_model(str(captioner), "captioner").digest
        known = digest in seen
        seen.add(digest)
        return not known

    spread(captioner)
    assert is_new()
    for name in ("model-2.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        with (captioner / name).open("ab") as file:
            file.write(b" ")
        assert is_new(), name
    (captioner / "README.md").write_text("what it is")
    assert not is_new()
    (captioner / "preprocessor_config.json").rename(captioner / "processor_config.json")
    assert is_new()
    with (captioner / "processor_config.json").open("ab") as file:
        file.write(b" ")
    assert is_new()
    (captioner / "pretraining.safetensors").write_bytes(b"")
    assert not is_new()
    base = reference_model(str(captioner), "base").digest
    (captioner / "pretraining.safetensors").write_bytes(b" ")
    assert reference_model(str(captioner), "base").digest != base
    (captioner / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model-2\.safetensors, which model\.safetensors\.index\.json names"):
        reference_model(str(captioner), "captioner")


def test_a_snapshot_of_the_hubs_cache_is_a_model_folder(captioner: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (captioner / "model.json").unlink(missing_ok=True)
    for number, path in enumerate(sorted(captioner.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert reference_model(str(snapshot), "captioner").uri == str(snapshot)
    load_captioner(fetch_model(str(snapshot), tmp_path / "cache"))


def test_a_name_on_the_hub_is_answered_with_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = "hf download Salesforce/blip-image-captioning-base --local-dir blip-image-captioning-base"
    for ask in (lambda uri: fetch_model(uri, tmp_path / "cache"), lambda uri: reference_model(uri, "captioner")):
        with pytest.raises(ModelError, match=command):
            ask("Salesforce/blip-image-captioning-base")
        for other in ("/Salesforce/x", "models/a/b", "x"):
            with pytest.raises(ModelError) as error:
                ask(other)
            assert "hf download" not in str(error.value)


# --- transformers' processor ---


def test_their_processor_reads_our_folder_and_we_read_theirs(captioner: Path, tmp_path: Path) -> None:
    processor = BlipProcessor.from_pretrained(captioner)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    inputs = processor(images=image, text="a red ball", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert inputs["input_ids"].tolist() == [[TOKENIZER.cls_id, 5, 6, 7, TOKENIZER.sep_id]]
    (captioner / "preprocessor_config.json").unlink()
    processor.save_pretrained(tmp_path / "saved")
    for name in ("config.json", "model.safetensors"):
        (captioner / name).rename(tmp_path / "saved" / name)
    loaded = load_captioner(tmp_path / "saved")
    assert loaded.preprocessor.size == 32 and loaded.tokenizer.vocab_size == TOKENIZER.vocab_size


def test_a_folder_without_a_preprocessor_is_blips(captioner: Path) -> None:
    (captioner / "preprocessor_config.json").unlink()
    preprocessor = load_captioner(captioner).preprocessor
    assert preprocessor.size == 32 and preprocessor.mean == (0.48145466, 0.4578275, 0.40821073)


def test_the_preprocessors_size_is_respected(captioner: Path) -> None:
    edit_json(captioner / "preprocessor_config.json", size={"height": 48, "width": 48})
    loaded = load_captioner(captioner)
    assert loaded.preprocessor.size == loaded.model.config.vision.image_size == 48
    assert load_captioner(captioner, image_size=64).preprocessor.size == 64
    with pytest.raises(ModelError, match="image_size 40 must be a multiple of 16"):
        load_captioner(captioner, image_size=40)


# --- through a store ---


def test_publish_and_fetch_locally(captioner: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store" / "models" / "c"))
    ref = publish_model(captioner, store, "captioner")
    assert (ref.role, ref.uri) == ("captioner", store.uri)
    folder = fetch_model(ref.uri, tmp_path / "cache", digest=ref.digest)
    assert folder == Path(store.uri) and not (tmp_path / "cache").exists()
    load_captioner(folder)
    assert publish_model(captioner, store, "captioner") == ref


def test_digest_is_of_the_content(captioner: Path, tmp_path: Path) -> None:
    first = publish_model(captioner, open_store(str(tmp_path / "1")), "captioner")
    second = publish_model(captioner, open_store(str(tmp_path / "2")), "captioner")
    assert first.digest == second.digest
    edit_json(captioner / "generation_config.json", max_length=7)
    third = publish_model(captioner, open_store(str(tmp_path / "2")), "captioner")
    assert third.digest != second.digest
    with pytest.raises(ModelError, match="is wanted"):
        fetch_model(second.uri, tmp_path / "cache", digest=second.digest)


def test_a_changed_file_is_noticed(captioner: Path, tmp_path: Path) -> None:
    ref = publish_model(captioner, open_store(str(tmp_path / "m")), "captioner")
    (tmp_path / "m" / "vocab.txt").write_text("x")
    with pytest.raises(ModelError, match=r"vocab\.txt is not the file"):
        fetch_model(ref.uri, tmp_path / "cache", digest=ref.digest)


def test_a_model_half_published_is_no_model(captioner: Path, tmp_path: Path) -> None:
    ref = publish_model(captioner, open_store(str(tmp_path / "m")), "captioner")
    (tmp_path / "m" / "model.json").unlink()
    with pytest.raises(ModelError, match=r"no model\.json"):
        fetch_model(ref.uri, tmp_path / "cache", digest=ref.digest)
    with pytest.raises(ModelError, match=r"there is no config\.json"):
        fetch_model(str(tmp_path / "nothing"), tmp_path / "cache")
    with pytest.raises(ModelError, match="save_model"):
        publish_model(tmp_path, open_store(str(tmp_path / "n")), "base")


def test_publish_and_fetch_through_s3(captioner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "_clients", {})  # kept per process: ours must not outlive its server
    (tmp_path / "served").mkdir()
    with serve_s3(tmp_path / "served") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        ref = publish_model(captioner, open_store(f"{server.uri}/models/c"), "captioner")
        folder = fetch_model(ref.uri, tmp_path / "cache", digest=ref.digest)
        assert folder.parent == tmp_path / "cache" and fetch_model(ref.uri, tmp_path / "cache") == folder
        expected, loaded = load_captioner(captioner).model, load_captioner(folder).model
        for name, parameter in expected.named_parameters():
            torch.testing.assert_close(loaded.get_parameter(name), parameter, rtol=0, atol=0)
        stored = open_store(ref.uri)
        stored.write("vocab.txt", b"x")  # changed behind the record's back
        with pytest.raises(ModelError, match=r"vocab\.txt is not the file"):
            fetch_model(ref.uri, tmp_path / "other")
        assert not list((tmp_path / "other").iterdir())
        stored.delete("model.json")  # a folder from elsewhere: config.json is what makes it one
        stored.upload(captioner / "vocab.txt", "vocab.txt")
        load_captioner(fetch_model(ref.uri, tmp_path / "plain"))
        with pytest.raises(ModelError, match=r"there is no config\.json"):
            fetch_model(f"{server.uri}/models", tmp_path / "none")
        spread(captioner)
        several = open_store(f"{server.uri}/several")
        for path in captioner.iterdir():
            several.upload(path, path.name)
        load_captioner(fetch_model(several.uri, tmp_path / "several"))
        several.delete("model-1.safetensors")
        with pytest.raises(ModelError, match=rf"{several.uri} lacks model-1\.safetensors"):
            fetch_model(several.uri, tmp_path / "lacking")
        with pytest.raises(ModelError, match=r"s3://.*lacks"):
            reference_model(several.uri, "captioner")
