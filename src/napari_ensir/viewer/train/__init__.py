"""Panel that trains a restorer."""
