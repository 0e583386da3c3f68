"""One picture proves nothing: sweeps over two settings, many seeds, blind votes. Knows no page."""
