"""Membership inference: train once, attack many."""
