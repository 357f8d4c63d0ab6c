"""Bad captions as captioners have been reported to give them, to be planted among human ones.

They are made of reports (issue threads of LLaVA-NeXT, ShareGPT4V, Qwen-VL, CogVLM, LiveCC and BLIP-2, and of those who
caption with them), not of the rules that are to find them: see docs/models.md. Those of `fresh_captions/` were thought
up, refusals from what other programs look for too, before the rules of today were written; `good.txt` are captions with
words of refusals, and `terse.txt` refusals that were written after the rules, to get past them.
"""

import random
from collections.abc import Callable
from pathlib import Path

from components.inference.protocols import Written

FRESH = Path(__file__).parent / "fresh_captions"
ASKED = "Describe this image in one short sentence."
Maker = Callable[[random.Random, str], str]

_REFUSALS = (
    "I'm sorry, but I can't assist with that request.",
    "I'm sorry, I can't assist with that request.",
    "I'm sorry, but I can't provide assistance with that image.",
    "I'm sorry, but I can't provide descriptions for images with people in them.",
    "I'm sorry, but I'm not able to provide visual descriptions of images with real people.",
    "I am really sorry, but this is not something I can help with.",
    "Sorry, I cannot provide a caption for this image.",
    "Sorry, no can do.",
    "My apologies, but it seems that there is no picture attached to your message.",
    "Apologies, the picture did not come through.",
    "I apologize for the confusion, but there is no image provided for me to describe.",
    "Unfortunately I can't see images, but if you describe it to me I'd be glad to help!",
    "Unfortunately, the image you've provided could not be loaded.",
    "As an AI language model, I do not have access to the picture of your choice, please describe it to me.",
    "As a text-based AI, I can't view pictures directly.",
    "I'm just a language model and don't have eyes.",
    "I am an AI assistant and I don't have personal opinions about the people in this picture.",
    "I'm unable to identify or describe individuals in photographs.",
    "I am not able to view the file you sent.",
    "I cannot determine who is in this picture.",
    "I can't make out anything in this picture.",
    "I can't help with images of people yet.",
    "I won't describe explicit content.",
    "I will not be able to complete this task.",
    "I must decline to describe this photograph.",
    "I have to decline this request.",
    "I'd rather not describe this picture.",
    "I'm not comfortable describing this content.",
    "I don't feel comfortable answering that.",
    "It would be inappropriate for me to describe the person in this photo.",
    "It is not appropriate to comment on someone's body.",
    "This request goes against my guidelines.",
    "This content may violate our usage policies.",
    "Describing this picture would violate my safety guidelines.",
    "Please provide me with the image you would like me to describe.",
    "Please upload the photo so I can take a look.",
    "Could you please share the image again?",
    "Can you provide more context or the image itself?",
    "It looks like you forgot to attach the image.",
    "It seems that the image is missing.",
    "It appears there is no image in your message.",
    "There is no image provided.",
    "No image was provided.",
    "No image found.",
    "The image is not available.",
    "The image could not be displayed.",
    "I don't see any image here.",
    "I do not see an image attached.",
    "You haven't provided an image.",
    "No description available.",
    "Unable to process the image.",
    "Cannot describe the image.",
    "I don't know what's going on.",
    "I have no idea what this is.",
    "I'm not sure what you are asking, could you clarify?",
    "Sure, I'd be happy to help! What would you like to know about the image?",
    "Hello! How can I help you today?",
    "The image does not contain any imaginary content, and all descriptions are based on its visible content.",
    "Regrettably, I can't fulfill that request.",
    "I can only process text, so I can't tell what this picture shows.",
    "The image link appears to be broken.",
    "I couldn't find an image in your message.",
    "I'm designed to avoid describing real people.",
    "I prefer not to comment on this image.",
    "That's not something I can do.",
    "Your request was flagged by our content filter.",
    "As a responsible AI, I avoid describing such scenes.",
    "I would need the actual image to help you.",
    "There doesn't appear to be an image here.",
    "I see that you've mentioned an image, but it hasn't been uploaded.",
    "Oops, something went wrong while reading the image.",
    "I refuse to describe this.",
    "The provided URL does not lead to an image.",
    "I lack the ability to view images.",
    "Image failed to load.",
    "No visual content was provided for analysis.",
    "This picture can't be described due to its explicit nature.",
    "I'm not permitted to talk about the individuals shown.",
    "I was not given a picture.",
    "Kindly upload the picture you mean.",
    "The picture did not upload properly.",
    "My training does not allow me to describe this.",
    "This is beyond my capabilities.",
    "I'm having trouble viewing this image.",
    "Please try another image.",
    "Let me know if you'd like me to describe something else.",
    "I'm going to have to decline.",
    "You did not provide any picture.",
    "抱歉，我无法描述这张图片。",
    "对不起，我不能回答这个问题。",
)
_PREAMBLES = (
    "Sure! Here is a short sentence describing the image: ",
    "Sure, here's a caption: ",
    "Here is a one-sentence description of the image: ",
    "Here's a short description:\n\n",
    "Caption: ",
    "**Caption:** ",
    "Description: ",
    "Answer: ",
    "Short answer: ",
    "Q: What is in the image? A: ",
    "Question: what does the picture show? Answer: ",
    "### Response:\n",
    "### Assistant: ",
    "ASSISTANT: ",
    "Assistant: ",
    "assistant\n",
    "User: ",
    "Human: ",
    "model\n",
    "[INST] ",
    "[/INST] ",
    "<image>",
    "<s>",
    "<|im_start|>assistant\n",
    "<start_of_turn>model\n",
    "<|assistant|>\n",
    "<CAPTION>",
    "<OD>",
    "<loc_12><loc_998>",
    "<think>\nThe user wants a short caption.\n</think>\n\n",
    "</think>\n\n",
    "Got it, let's look at the image. The user wants one short sentence. ",
    "system\nYou are a helpful assistant.\nuser\n",
    "You are a helpful assistant. ",
    "The caption for this image is: ",
    "Sure thing! ",
    "One short sentence: ",
    "Image description: ",
    "Prompt: Describe the image. Output: ",
    "As requested, a short sentence: ",
    "<|vision_start|>",
)
_UNITS = ("| ", "- ", ". ", "\\n", "of the ", "I think. ", "ha", "0.", "。", "的")
_TAILS = """</s> <|im_end|> <|endoftext|> <end_of_utterance> <eos> <pad><pad> <|eot_id|>""".split()  # noqa: SIM905
_NOTHINGS = (
    *("", " ", "\n", "\n\n\n", "\t", "\u200b", "\u3000", ". .", "[ ]", "1.", "0", "None.", "N.A.", "(none)", "[blank]"),
    *""". .. - — … ? "" () [] {} <> 。 * # '' `` , _ | • -- ?! // None none null N/A n/a nan NaN undefined""".split(),  # noqa: SIM905
)


def _refusal(rng: random.Random, caption: str) -> str:
    text = rng.choice(_REFUSALS)
    if rng.random() < 0.3:
        text = text.replace("'", "’")
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.15:
        text = f"{text} {caption}"
    return text.rstrip(".") if rng.random() < 0.2 else text


def _phrases(rng: random.Random, caption: str) -> tuple[str, str]:
    """A beginning of the caption, and a run of its words."""
    words = caption.strip(" .").split()
    size = min(len(words), rng.randint(1, 10))
    start = rng.randrange(len(words) - size + 1)
    return " ".join(words[: start + size]), " ".join(words[start : start + size])


def _repetition(rng: random.Random, caption: str) -> str:
    whole = caption.strip(" .")
    start, loop = _phrases(rng, caption)
    times = rng.randint(6, 30)
    makers: tuple[Callable[[], str], ...] = (
        lambda: start + f" {loop}" * times,
        lambda: start + f", {loop}" * times,
        lambda: start + f" and {loop}" * times,
        lambda: f"{whole}. " * rng.randint(3, 6),
        lambda: f"{whole}\n" * rng.randint(3, 6),
        lambda: f"{whole}. The background is blurry. " * rng.randint(3, 5),
        lambda: "".join(f"{at}. {whole}\n" for at in range(1, rng.randint(5, 9))),
        lambda: f"{whole} {whole}",
        lambda: " ".join(rng.choice(("a tree", "a bush", "a fence")) + "," for _ in range(times + 6)),
        lambda: start + " " + (loop.split()[-1] * times),
        lambda: rng.choice("!!!.-_0aA*=#") * rng.randint(16, 200),
        lambda: rng.choice(_UNITS) * rng.randint(16, 60),
        lambda: start + " " + rng.choice("!.,-") * rng.randint(12, 60),
    )
    return rng.choice(makers)()


def _echo(rng: random.Random, caption: str) -> str:
    asked = ASKED.rstrip(".")
    makers: tuple[Callable[[], str], ...] = (
        lambda: ASKED,
        lambda: ASKED.lower(),
        lambda: f"{asked}: {caption}",
        lambda: f"{ASKED}\n{caption}",
        lambda: f"{ASKED.upper()} {caption}",
        lambda: f'"{asked}"',
        lambda: f"{asked} {asked}",
        lambda: f"this image in one short sentence. {caption}",
        lambda: f"user\n{ASKED}\nassistant\n{caption}",
        lambda: caption + rng.choice(_TAILS),
        lambda: caption + rng.choice(("\nUSER: ", "\n### Human:", "\n\nHuman: what else is there?", "\nAssistant: ")),
        lambda: '{"caption": "' + caption.replace('"', "") + '"}',
        lambda: '```json\n{"description": "' + caption.replace('"', "") + '"}\n```',
    )
    return rng.choice(_PREAMBLES) + caption if rng.random() < 0.5 else rng.choice(makers)()


def _cut(rng: random.Random, caption: str) -> str:
    return caption[: rng.randint(1, max(1, len(caption) - 2))]


MAKERS: dict[str, Maker] = {
    "refusal": _refusal,
    "repeated": _repetition,
    "echo": _echo,
    "empty": lambda rng, caption: rng.choice(_NOTHINGS),
    "cut": _cut,
}


def planted(kind: str, captions: list[str], count: int) -> list[Written]:
    """So many bad captions of a kind, each made of another human caption; the same every time."""
    rng = random.Random(kind)
    finish = "length" if kind == "cut" else "stop"
    return [Written(MAKERS[kind](rng, rng.choice(captions)), finish, 9) for _ in range(count)]  # type: ignore[arg-type]


def fresh(name: str) -> list[str]:
    """The texts of a file of `fresh_captions/`, one a line, of which some are empty."""
    return (FRESH / f"{name}.txt").read_text().removesuffix("\n").split("\n")


def planted_fresh(kind: str, count: int) -> list[Written]:
    """So many bad captions of a kind in fresh words, some in small letters, with curly apostrophes or no full stop."""
    rng, texts = random.Random(kind), fresh(kind)
    return [Written(_varied(rng, rng.choice(texts)), "stop", 9) for _ in range(count)]


def _varied(rng: random.Random, text: str) -> str:
    if rng.random() < 0.3:
        text = text.replace("'", "’")
    if rng.random() < 0.2:
        text = text.lower()
    return text.rstrip(".") if rng.random() < 0.2 else text
