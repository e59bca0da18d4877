"""Networks, the action distributions on top of them, the normalisers in front, as modules."""
