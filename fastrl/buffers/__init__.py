"""Where rows live and how they move: the rollout buffer, and indexing in C++ and in torch."""
