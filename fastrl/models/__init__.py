"""Networks, the action distributions on top of them and the normalisers in front of them, as modules."""
