"""Helpers that tests of several folders share: stand-ins, factories of rows, small servers and programs."""
