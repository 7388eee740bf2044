"""Which runs are compared, their records on disk by name, how missing ones are made, how stored ones are replayed
against today's code, and how all are released as data. Uses `language_models` and the rooms before it.
"""
