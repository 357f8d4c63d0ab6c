"""Answers and losses of VQA against a plain loop over transformers' classes, its fault with padding mended."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BlipForQuestionAnswering

from components.common.errors import ConfigError, ModelError
from components.data.decoding import to_pixels
from components.inference.arithmetic import Arithmetic
from components.inference.vqa import Answerer
from components.model.blip import BlipPretrain, BlipVqa
from components.model.checkpoints.weights import Preprocessor, load_vqa, save_model, to_original
from components.model.config import AnsweringConfig
from components.model.decoding import generate
from components.model.remembered import RememberedTokens
from components.model.tokenizer import BlipTokenizer, pre_question
from components.model.vqa import VqaBatch, VqaObjective, answer_losses, rank_answers
from tests.helpers.tiny_models import CORPUS, tiny_config
from tests.helpers.transformers_blip import DEC, ENC, SEP, TINY, fill_text, fill_vision, theirs

CONFIG = TINY.with_vision(width=32, heads=4)  # transformers has one width for what both stacks attend to
LENGTHS = (8, 4, 6)
ANSWERS = ([5, 6], [5, 7, 8], [9], [10, 11], [5], [12, 6, 6, 7], [9, 13], [14], [15, 5])


class Pair:
    """The same random weights in both codes, float64."""

    def __init__(self) -> None:
        self.theirs = theirs(BlipForQuestionAnswering, CONFIG).double()
        self.ours = BlipVqa(CONFIG).double().eval()
        weights = dict(self.theirs.state_dict())
        fill_vision(self.ours.vision_model, weights)
        fill_text(self.ours.text_encoder, weights, "text_encoder.", "encoder")
        fill_text(self.ours.text_decoder, weights, "text_decoder.bert.", "decoder")

    def states(self, pixels: Tensor, question: Tensor) -> Tensor:
        """What their decoder reads of one question without padding."""
        seen = self.theirs.vision_model(pixels).last_hidden_state
        return self.theirs.text_encoder(input_ids=question, encoder_hidden_states=seen).last_hidden_state

    def losses(self, states: Tensor, answer: list[int], smoothing: float) -> float:
        """Sum over the tokens of one answer and its end."""
        ids = torch.tensor([[DEC, *answer, SEP]])
        logits = self.theirs.text_decoder(input_ids=ids, encoder_hidden_states=states).logits
        wanted = ids[0, 1:]
        return float(functional.cross_entropy(logits[0, :-1], wanted, label_smoothing=smoothing, reduction="sum"))

    def ranked(self, states: Tensor, k: int, smoothing: float) -> int:
        """The best of ANSWERS: the k likeliest by their first token, then by the whole loss."""
        start = torch.tensor([[DEC]])
        first = self.theirs.text_decoder(input_ids=start, encoder_hidden_states=states).logits[0, 0].softmax(-1)
        chosen = sorted(range(len(ANSWERS)), key=lambda at: (-float(first[ANSWERS[at][0]]), at))[:k]
        return min(chosen, key=lambda at: self.losses(states, ANSWERS[at], smoothing))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def asked(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, and questions of several lengths with rubbish behind their ends."""
    made = torch.Generator().manual_seed(seed)
    pixels = torch.randn(len(LENGTHS), 3, 32, 32, generator=made, dtype=torch.float64)
    ids = torch.randint(3, 50, (len(LENGTHS), max(LENGTHS)), generator=made)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids[:, 0] = ENC
    return pixels, ids, mask


@torch.no_grad()
@pytest.mark.parametrize(("k", "smoothing"), [(1, 0.0), (2, 0.0), (4, 0.0), (100, 0.0), (4, 0.1)])
def test_ranking(pair: Pair, k: int, smoothing: float) -> None:
    pixels, ids, mask = asked()
    list_ids, list_mask = padded([[1, *answer, SEP] for answer in ANSWERS])
    read = pair.ours.encode_questions(pixels, ids, mask)
    found = rank_answers(pair.ours, read, list_ids, list_mask, top_k=k, smoothing=smoothing)
    for row, length in enumerate(LENGTHS):
        states = pair.states(pixels[row : row + 1], ids[row : row + 1, :length])
        expected = pair.ranked(states, k, smoothing)
        assert found.answers[row] == expected
        assert float(found.scores[row]) == pytest.approx(-pair.losses(states, ANSWERS[expected], smoothing), abs=1e-9)


@torch.no_grad()
def test_written_answers(pair: Pair) -> None:
    pixels, ids, mask = asked(1)
    read = pair.ours.encode_questions(pixels, ids, mask)
    written = generate(pair.ours, read, [DEC], AnsweringConfig().decoding)
    for row, length in enumerate(LENGTHS):
        alone = {"input_ids": ids[row : row + 1, :length], "pixel_values": pixels[row : row + 1]}
        whole = pair.theirs.generate(**alone, do_sample=False, num_beams=3, min_length=1, max_length=10)[0, 1:].tolist()
        assert written[row] == (whole[: whole.index(SEP)] if SEP in whole else whole)


@torch.no_grad()
def test_the_loss_weighs_answers_by_agreement(pair: Pair) -> None:
    pixels, ids, mask = asked(2)
    owners, shares = [0, 0, 1, 2, 2, 2], [0.7, 0.3, 1.0, 0.2, 0.5, 0.3]
    chosen = [ANSWERS[at] for at in (0, 2, 5, 1, 3, 7)]
    answers, answer_mask = padded([[1, *answer, SEP] for answer in chosen])
    weights = torch.tensor(shares, dtype=torch.float64)
    batch = VqaBatch(pixels, ids, mask, answers, answer_mask, torch.tensor(owners), weights, torch.arange(3))
    found = VqaObjective(pair.ours)(batch)
    read = [pair.states(pixels[row : row + 1], ids[row : row + 1, :length]) for row, length in enumerate(LENGTHS)]
    for name, smoothing in (("loss", 0.1), ("nll_vqa", 0.0)):
        rows = zip(owners, shares, chosen, strict=True)
        total = sum(share * pair.losses(read[owner], answer, smoothing) for owner, share, answer in rows)
        assert float(found[name]) == pytest.approx(total / len(LENGTHS), abs=1e-9)


@torch.no_grad()
def test_a_batch_is_as_good_as_one_at_a_time(pair: Pair) -> None:
    """In double precision: losses, ranking and writing of mixed lengths, also of several questions per image."""
    pixels, ids, mask = asked(3)
    list_ids, list_mask = padded([[1, *answer, SEP] for answer in ANSWERS])
    index = torch.tensor([2, 0, 2])
    together = pair.ours.read_questions(pair.ours.encode_images(pixels), ids, mask, index)
    ranked = rank_answers(pair.ours, together, list_ids, list_mask, top_k=3)
    written = generate(pair.ours, together, [DEC], AnsweringConfig().decoding)
    losses = answer_losses(pair.ours, list_ids[:3], list_mask[:3], together)
    for row, length in enumerate(LENGTHS):
        image = pixels[index[row]][None]
        alone = pair.ours.encode_questions(image, ids[row : row + 1, :length])
        one = rank_answers(pair.ours, alone, list_ids, list_mask, top_k=3)
        assert one.answers[0] == ranked.answers[row]
        torch.testing.assert_close(one.scores[0], ranked.scores[row], atol=1e-10, rtol=0)
        assert generate(pair.ours, alone, [DEC], AnsweringConfig().decoding)[0] == written[row]
        answer = slice(row, row + 1)
        own = answer_losses(pair.ours, list_ids[answer], list_mask[answer], alone)
        torch.testing.assert_close(own.loss[0], losses.loss[row], atol=1e-10, rtol=0)
        torch.testing.assert_close(own.nll[0], losses.nll[row], atol=1e-10, rtol=0)


def test_gradients_reach_all_parts_and_no_padding(pair: Pair) -> None:
    model = BlipVqa(CONFIG).double()
    model.load_state_dict(pair.ours.state_dict())
    pixels, ids, mask = asked(4)
    other = ids.masked_fill(~mask, 33)
    answers, answer_mask = padded([[1, *answer, SEP] for answer in ANSWERS[:3]])
    ones = torch.ones(3, dtype=torch.float64)
    found = []
    for questions in (ids, other):
        model.zero_grad()
        own = torch.arange(3)
        batch = VqaBatch(pixels, questions, mask, answers, answer_mask, own, ones, own)
        VqaObjective(model.eval())(batch)["loss"].backward()
        found.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    assert {name.partition(".")[0] for name in found[0]} == {"vision_model", "text_encoder", "text_decoder"}
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=name)


@torch.no_grad()
def test_a_frozen_image_is_looked_at_once(pair: Pair) -> None:
    """Questions about an image read what it looked like the first time; the loss is that of looking again."""
    pixels, ids, mask = asked(5)
    answers, answer_mask = padded([[1, *answer, SEP] for answer in ANSWERS[:3]])
    ones, same = torch.ones(3, dtype=torch.float64), torch.tensor([7, 9, 7])
    batch = VqaBatch(pixels[[0, 1, 0]], ids, mask, answers, answer_mask, torch.arange(3), ones, same)
    objective = VqaObjective(pair.ours)
    expected = objective(batch)["loss"]
    looked = []
    objective.remembered = RememberedTokens(pair.ours.vision_model, 2)
    objective.remembered._tokens = objective.remembered._tokens.double()
    hook = pair.ours.vision_model.register_forward_hook(lambda module, inputs, output: looked.append(len(inputs[0])))
    try:
        for _ in range(2):
            torch.testing.assert_close(objective(batch)["loss"], expected, atol=1e-10, rtol=0)
    finally:
        hook.remove()
    assert looked == [1, 1]


def test_it_learns_what_annotators_agree_on() -> None:
    """Three images, one question, whose answers hang on the image; a minority says otherwise."""
    torch.manual_seed(0)
    config = CONFIG.with_text(dropout=0.0, attention_dropout=0.0, initializer_range=0.1)
    model = BlipVqa(config.with_vision(initializer_range=0.1)).train()
    pixels = torch.randn(3, 3, 32, 32)
    questions, question_mask = padded([[1, 20, 21, SEP]] * 3)
    answers, answer_mask = padded([[1, *answer, SEP] for answer in ([5, 6], [9], [9, 13], [10, 11])])
    owners, weights = torch.tensor([0, 0, 1, 2]), torch.tensor([0.7, 0.3, 1.0, 1.0])
    batch = VqaBatch(pixels, questions, question_mask, answers, answer_mask, owners, weights, torch.arange(3))
    learning = VqaObjective(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        learning(batch)["loss"].backward()
        optimizer.step()
    read = model.eval().encode_questions(pixels, questions, question_mask)
    with torch.no_grad():
        assert rank_answers(model, read, answers, answer_mask).answers.tolist() == [0, 2, 3]
        assert generate(model, read, [DEC], AnsweringConfig().decoding) == [[5, 6], [9, 13], [10, 11]]


def test_an_empty_list_and_a_model_in_training_are_refused(pair: Pair) -> None:
    read = pair.ours.encode_questions(*asked())
    none = torch.zeros(0, 3, dtype=torch.int64)
    with pytest.raises(ConfigError, match="no answer to choose from"):
        rank_answers(pair.ours, read, none, none)
    with pytest.raises(ModelError, match="training mode"):
        rank_answers(BlipVqa(CONFIG), read, torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3))


# ---------------------------------------------------------------------------------------------------------------------
# Folders
# ---------------------------------------------------------------------------------------------------------------------

TOKENIZER = BlipTokenizer.train([*CORPUS, "what colour is the ball where yes no ?"] * 2, 250)
QUESTIONS = ("What colour is the ball?", "is the cat on the house", "where ?")
PREPROCESSOR = Preprocessor(32)
LIST = ("red", "blue", "green ball", "on the house", "two", "yes", "no")


def tiny_vqa() -> BlipVqa:
    torch.manual_seed(3)
    model = BlipVqa(tiny_config(32, 128).for_tokenizer(TOKENIZER))  # heads of 64, as in every original file
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    return model.eval()


def answered(source: Path, **config: object) -> list[str]:
    squares = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    loaded = load_vqa(source, tokenizer=TOKENIZER)
    worker = Answerer(loaded, AnsweringConfig(**config), Arithmetic(torch.device("cpu"), "fp32"), LIST)  # type: ignore[arg-type]
    return worker.answer(squares.numpy(), QUESTIONS, [1, 0, 1])


@torch.no_grad()
def answered_by_theirs(model: BlipForQuestionAnswering) -> list[str]:
    """The same questions written an answer to by transformers' own `generate`, one at a time, so without padding."""
    squares = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    texts = []
    for text, image in zip(QUESTIONS, [1, 0, 1], strict=True):
        ids, _ = TOKENIZER.encode([pre_question(text, 50)], 35)
        ids[:, 0] = TOKENIZER.enc_id
        pixels = to_pixels(squares[[image]].numpy(), PREPROCESSOR.mean, PREPROCESSOR.std)
        options = {"do_sample": False, "num_beams": 3, "min_length": 1, "max_length": 10}
        row = model.generate(input_ids=ids, pixel_values=pixels, **options)[0, 1:].tolist()
        end = row.index(TOKENIZER.sep_id) if TOKENIZER.sep_id in row else len(row)
        texts.append(TOKENIZER.decode_batch([row[:end]])[0].strip())
    return texts


def test_weights_to_transformers_and_back_give_the_same_answers(tmp_path: Path) -> None:
    model = tiny_vqa()
    save_model(model, TOKENIZER, tmp_path / "ours")
    other = BlipForQuestionAnswering.from_pretrained(tmp_path / "ours")
    other.save_pretrained(tmp_path / "theirs")
    TOKENIZER.save(tmp_path / "theirs")
    (tmp_path / "theirs" / "preprocessor_config.json").write_bytes(
        (tmp_path / "ours" / "preprocessor_config.json").read_bytes()
    )
    torch.save({"model": to_original(model)}, tmp_path / "model.pth")
    again = load_vqa(tmp_path / "theirs", finetuned=True).model.state_dict()
    original = load_vqa(tmp_path / "model.pth", tokenizer=TOKENIZER, image_size=32).model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again[name]), name
        assert torch.equal(value, original[name]), name
    for method in ("rank", "generate"):
        expected = answered(tmp_path / "ours", method=method)
        assert answered(tmp_path / "theirs", method=method) == expected
        assert answered(tmp_path / "model.pth", method=method) == expected
    assert answered(tmp_path / "ours", method="generate") == answered_by_theirs(other.eval())


def test_one_question_alone_and_among_others(tmp_path: Path) -> None:
    save_model(tiny_vqa(), TOKENIZER, tmp_path)
    loaded = load_vqa(tmp_path)
    squares = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    for method in ("rank", "generate"):
        config = AnsweringConfig(method=method, top_k=3)
        worker = Answerer(loaded, config, Arithmetic(torch.device("cpu"), "fp32"), LIST)
        together = worker.answer(squares.numpy(), QUESTIONS, [1, 0, 1])
        alone = [worker.answer(squares[[at]].numpy(), [text])[0] for text, at in zip(QUESTIONS, (1, 0, 1), strict=True)]
        assert together == alone
        assert method == "generate" or set(together) <= set(LIST)
    assert worker.answer(squares.numpy(), []) == []


def test_a_base_model_has_yet_to_learn_to_answer(tmp_path: Path) -> None:
    save_model(BlipPretrain(tiny_config(32).for_tokenizer(TOKENIZER)), TOKENIZER, tmp_path)
    load_vqa(tmp_path)
    with pytest.raises(ModelError, match="is no VQA model"):
        load_vqa(tmp_path, finetuned=True)
    assert "BlipForConditionalGeneration" in json.loads((tmp_path / "config.json").read_text())["architectures"]


def test_questions_are_cleaned_as_blip_cleans_them() -> None:
    assert pre_question('What "colour" is it?!  (the ball; left): #1 ') == "what colour is it? the ball left 1"
    assert len(pre_question("word " * 60).split()) == 50
