"""How the models in assets/ are made: `python -m nag.pocket {data,train,distill,export,evaluate}`."""
