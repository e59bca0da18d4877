"""How an algorithm's functions run: eager, recorded, compiled or in native kernels."""
