"""Writers of ECG files, the mirror of the readers."""
