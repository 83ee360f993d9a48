"""What training scripts share: pairs, tokenizers, checkpoints, optimiser groups, the run, the supervised loop."""
