"""Pre-training and finetuning with DeepSpeed in a launched process group."""
