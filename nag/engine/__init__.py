"""A request becomes columns: loading, drawing, timing, judging. Knows no page."""
