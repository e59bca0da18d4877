"""The studio: a page in the browser to start, watch and compare runs.

It speaks to runs through the command line and their folders alone, so that they outlive it.
"""
