"""The commands of `merit-ecg`, one module each, with `add` for its options and a function that runs it."""
