"""Other people's files as episodes: one file a format, see `reverie.data.formats.registry`."""
