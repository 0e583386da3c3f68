"""Pictures and videos that come in, go out, or are read by a classifier."""
