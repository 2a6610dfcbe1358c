"""Training of IR-CM, DP-IR and plain networks."""
