"""Learning and ranking restorers without a ground truth."""
