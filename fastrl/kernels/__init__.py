"""The C++ extension, and the torch twins that serve without it."""
