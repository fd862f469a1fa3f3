"""Accepts jobs and shows them."""
