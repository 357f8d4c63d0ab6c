"""BLIP's multimodal mixture of encoder-decoder (MED): network, objectives, decoding, tokenizer, weights."""
