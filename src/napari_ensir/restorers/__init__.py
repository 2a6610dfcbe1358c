"""Where candidates can come from: callables from a degraded image to a restored one."""
