"""Frozen features and what a simple classifier reads from them."""
