"""Entities: things with a state that decide on commands, event-sourced or kept as one value.

What an application writes stands in ``definition``; what runs it is ``runtime``. The journal arbitrates: any node may
handle any entity.
"""
