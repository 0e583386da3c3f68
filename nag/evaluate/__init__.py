"""`python -m nag evaluate`: what guidance does to many pictures, counted.

`options` has the command line and refuses what cannot work; `plan` turns its words into columns and
pictures; `draw` draws what is not there yet; `pocket` and `captions` measure finished pictures, by
the classifier of a pocket model or by CLIP, FID and a preference model; `statistics` has the
intervals and the Frechet distance; `report` writes results; `command` goes through all of it, in
one process or several (`processes`). `fidelity` is a command of its own.
"""
