"""Attacks on a server of our own, on loopback, next to an honest client: who still gets answers, and when."""
