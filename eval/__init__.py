"""Offline evaluation: questions x systems -> answers -> scores -> report."""
