"""The lookup table, its files and the records that outputs carry."""
