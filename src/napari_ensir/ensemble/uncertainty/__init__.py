"""Expected errors and bias of an ensemble."""
