"""The mathematics as pure functions of tensors.

Letters: T steps, N environments, B minibatch rows, P parameters.
"""
