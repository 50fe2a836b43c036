"""Servers to compare with, each as its documentation tells one to build it."""
