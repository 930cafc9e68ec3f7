"""Codecs, carriers and both protocols' streams in memory."""
