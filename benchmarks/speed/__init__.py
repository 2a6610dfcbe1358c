"""What ``bench.py`` times, a file for each path through the numerical core, and what it times with."""
