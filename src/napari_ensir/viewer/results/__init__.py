"""Output layers and plots."""
