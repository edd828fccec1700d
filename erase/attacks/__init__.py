"""Does it come back: attacks on an erased model, each beside a control that has as many pictures.

An attack draws pictures and judges none; `scores` reads the rows that come of them.
"""
