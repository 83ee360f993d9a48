"""The PTB-XL benchmark: label sets, prompts, subsets, tasks, shifts and rows of results."""
