"""`python -m nag evaluate`: what guidance does to many pictures, counted.

`plan` turns the words of a command line into columns and pictures, and refuses what cannot work; `draw` draws what is not there yet;
`pocket` and `captions` measure finished pictures, by the classifier of a pocket model or by CLIP, FID and a preference model;
`statistics` has the intervals and the Frechet distance; `report` writes results; `command` goes through all of it, in one process or several.
"""
