"""What the training scripts share: pairs, tokenizers and the supervised loop."""
