"""For people who work on takt: the gates and tests, generated docs, byte code.

Not here: anything that a user of takt runs.
"""
